//! What is sent while agents come and go.

use std::time::{Duration, Instant};

use tortie_tests::agent::PATIENCE;
use tortie_tests::kernel::objects;
use tortie_tests::stream::Stream;

use crate::node::Node;

/// A flow of each family that is allowed, and some that are not: not let in, not let out, and by a forged source.
pub(crate) struct Flows {
    began: Instant,
    allowed: Vec<Stream>,
    denied: Vec<Stream>,
}

impl Flows {
    pub(crate) fn start(node: &Node) -> Self {
        let began = Instant::now();
        let (mut allowed, mut denied) = (Vec::new(), Vec::new());
        let pairs = [("client", "server", true), ("stranger", "server", false), ("client", "stranger", false)];
        for (index, (from, to, permitted)) in pairs.into_iter().enumerate() {
            let (client, client4, client6) = node.place(from);
            let (server, server4, server6) = node.place(to);
            for (offset, here, there) in [(0, client4, server4), (1, client6, server6)] {
                let port = 7000 + u16::try_from(index * 2).expect("few") + offset;
                let ends = ((client.as_str(), here), (server.as_str(), there, port));
                if permitted {
                    allowed.push(Stream::start(ends.0, ends.1));
                } else {
                    denied.push(Stream::start_one_way(ends.0, ends.1));
                }
            }
        }
        Self { began, allowed, denied }
    }

    /// Waits until counters of denied packets have counted, so that one that begins anew is seen.
    pub(crate) fn wait_for_counters(node: &Node) {
        let deadline = Instant::now() + PATIENCE;
        while objects(node.netns()).values().flat_map(|object| &object.packets).sum::<u64>() < 10 {
            assert!(Instant::now() < deadline, "denied packets are counted nowhere");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Whether all has been as it must so far: a sentence if it has not. `opened` are stretches of time in which nothing could be denied.
    pub(crate) fn wrong(&self, opened: &[(Instant, Instant)]) -> Option<String> {
        let now = Instant::now();
        // A packet on a busy machine may take this long.
        let until = now.checked_sub(Duration::from_secs(2)).unwrap_or(now);
        self.find(until, opened)
    }

    fn find(&self, until: Instant, opened: &[(Instant, Instant)]) -> Option<String> {
        for stream in &self.allowed {
            for (way, log) in [("forth", &stream.forth), ("back", &stream.back)] {
                let log = log.lock().expect("the log");
                let lost = log.lost(self.began, until);
                let first = log.lost_at(self.began, until).last().map(|at| at - self.began);
                if lost > 0 {
                    return Some(format!("{lost} allowed packets {way} were lost, the first after {first:?}"));
                }
            }
        }
        for stream in &self.denied {
            let log = stream.forth.lock().expect("the log");
            let excused = |at: &Instant| opened.iter().any(|(from, to)| (*from..*to).contains(at));
            let passed: Vec<_> = log.passed().filter(|at| !excused(at)).map(|at| at - self.began).collect();
            if !passed.is_empty() {
                return Some(format!("{} denied packets arrived, the first after {:?}", passed.len(), passed[0]));
            }
        }
        None
    }

    /// Ends all, and insists.
    pub(crate) fn stop(mut self) {
        let until = Instant::now();
        for stream in self.allowed.iter_mut().chain(&mut self.denied) {
            stream.stop();
        }
        for stream in &self.allowed {
            for log in [&stream.forth, &stream.back] {
                assert!(log.lock().expect("the log").arrived(self.began, until) > 20, "an allowed flow hardly ran");
            }
        }
        for stream in &self.denied {
            assert!(stream.forth.lock().expect("the log").sent(self.began, until) > 20, "a denied flow hardly ran");
        }
        if let Some(wrong) = self.find(until, &[]) {
            panic!("{wrong}");
        }
    }
}
