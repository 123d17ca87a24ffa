//! Any bytes as a manifest, YAML and JSON: no panic, and every problem has a line of the file.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for name in ["fuzz.yaml", "fuzz.json"] {
        let loaded = tortie_datastore::manifests::load_bytes(name, bytes);
        // YAML ends a line at a carriage return too.
        let lines = bytes.iter().filter(|byte| matches!(byte, b'\n' | b'\r')).count() + 1;
        for problem in &loaded.problems {
            let line = problem.place.rsplit(':').next().and_then(|line| line.parse::<usize>().ok());
            assert!(line.is_some_and(|line| (1..=lines + 1).contains(&line)), "{problem:?}");
        }
        for (object, _) in &loaded.objects {
            assert_eq!(object.key().kind, object.kind());
        }
    }
});
