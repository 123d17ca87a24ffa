//! Writes the CustomResourceDefinitions into a folder, a file each, with the `kustomization.yaml` that lists them. `make crds` runs it.
#![allow(clippy::disallowed_methods, reason = "what writes files is this program only, no part of the library")]

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1) else {
        eprintln!("crds: name the folder to write to, such as deploy/crds");
        return ExitCode::from(2);
    };
    for (name, text) in tortie_api::schema::files() {
        let path = Path::new(&folder).join(name);
        if let Err(error) = std::fs::write(&path, text) {
            eprintln!("crds: {}: {error}", path.display());
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
