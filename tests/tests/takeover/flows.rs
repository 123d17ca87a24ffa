//! What is sent while agents come and go.

use std::time::{Duration, Instant};

use tortie_tests::agent::PATIENCE;
use tortie_tests::kernel::objects;
use tortie_tests::stream::{GAP, Stream};

use crate::node::Node;

/// A flow of each family that is allowed, and some that are not: not let in, not let out, and by a forged source.
pub(crate) struct Flows {
    began: Instant,
    allowed: Vec<Stream>,
    denied: Vec<Stream>,
    /// What is not the agent's doing.
    excused: Vec<(Instant, Instant)>,
}

impl Flows {
    pub(crate) fn start(node: &Node) -> Self {
        Self::start_every(GAP, node)
    }

    /// The same with this time between two packets of a flow.
    pub(crate) fn start_every(gap: Duration, node: &Node) -> Self {
        let began = Instant::now();
        let (mut allowed, mut denied) = (Vec::new(), Vec::new());
        let pairs = [("client", "server", true), ("stranger", "server", false), ("client", "stranger", false)];
        for (index, (from, to, permitted)) in pairs.into_iter().enumerate() {
            let (client, client4, client6) = node.place(from);
            let (server, server4, server6) = node.place(to);
            for (offset, here, there) in [(0, client4, server4), (1, client6, server6)] {
                let port = 7000 + u16::try_from(index * 2).expect("few") + offset;
                let ends = ((client.as_str(), here), (server.as_str(), there, port));
                let flows = if permitted { &mut allowed } else { &mut denied };
                flows.push(Stream::start_every(gap, ends.0, ends.1, permitted));
            }
        }
        Self { began, allowed, denied, excused: Vec::new() }
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
                let excused = |at: &Instant| self.excused.iter().any(|(from, to)| (*from..*to).contains(at));
                let lost: Vec<_> = log.lost_at(self.began, until).filter(|at| !excused(at)).collect();
                if let Some(first) = lost.last() {
                    let (count, first) = (lost.len(), *first - self.began);
                    return Some(format!("{count} allowed packets {way} were lost, the first after {first:?}"));
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

    /// Does what may cost packets, whoever runs.
    pub(crate) fn excuse(&mut self, work: impl FnOnce()) {
        let from = Instant::now();
        work();
        self.excused.push((from, Instant::now()));
    }

    /// Waits until every flow has run for a while.
    pub(crate) fn wait_for_packets(&self) {
        let deadline = Instant::now() + PATIENCE;
        let enough = |count: usize| count > 20;
        let logs = self.allowed.iter().flat_map(|stream| [&stream.forth, &stream.back]);
        for log in logs {
            while !enough(log.lock().expect("the log").arrived(self.began, Instant::now())) {
                assert!(Instant::now() < deadline, "an allowed flow does not run");
                std::thread::sleep(GAP);
            }
        }
        for stream in &self.denied {
            while !enough(stream.forth.lock().expect("the log").sent(self.began, Instant::now())) {
                assert!(Instant::now() < deadline, "a denied flow does not run");
                std::thread::sleep(GAP);
            }
        }
    }

    /// Ends all, once enough was sent to tell, and insists.
    pub(crate) fn stop(mut self) {
        self.wait_for_packets();
        let until = Instant::now();
        for stream in self.allowed.iter_mut().chain(&mut self.denied) {
            stream.stop();
        }
        if let Some(wrong) = self.find(until, &[]) {
            panic!("{wrong}");
        }
    }
}
