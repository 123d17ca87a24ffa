//! Pools that move from one mode to another while their pods talk.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tortie_tests::agent::Agent;
use tortie_tests::capture::Capture;
use tortie_tests::lab::Lab;
use tortie_tests::stream::{Stream, inside};

use crate::cluster::{PLAIN, VXLAN, address, carries, ip, pod, pools, until};

/// No established connection may stand still for longer.
const STANDSTILL: Duration = Duration::from_secs(1);

/// A TCP connection that sends as fast as it can; the longest time in which nothing arrived.
fn longest_pause(client: (&str, std::net::IpAddr), server: (&str, std::net::IpAddr), stop: &AtomicBool) -> Duration {
    let listener = inside(server.0, || TcpListener::bind((server.1, 7100)).expect("the pod's address"));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut stream = inside(client.0, || TcpStream::connect((server.1, 7100)).expect("a connection"));
            let data = vec![7; 64 << 10];
            // Slow enough for the streams beside it, with packets as large as they may be.
            while !stop.load(Ordering::Relaxed) && stream.write_all(&data).is_ok() {
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let (mut stream, _) = listener.accept().expect("a connection");
        let (mut last, mut longest, mut buffer) = (Instant::now(), Duration::ZERO, vec![0; 64 << 10]);
        while stream.read(&mut buffer).is_ok_and(|length| length > 0) {
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
        longest
    })
}

struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_pool_moves_to_vxlan_and_back_under_traffic() {
    let mut documents = vec![pod("a", "node1"), pod("b", "node2")];
    documents.extend(pools("Never"));
    let lab = Lab::up("vxm", &documents, &["--nodes", "2"]);
    let (from, to) = (lab.netns("default/a"), lab.netns("default/b"));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mut udp: Vec<Stream> = [true, false]
            .map(|ipv4| Stream::start((&from, address(&lab, "a", ipv4)), (&to, address(&lab, "b", ipv4), 7000)))
            .into();
        let tcp = [true, false].map(|ipv4| {
            let ends = (address(&lab, "a", ipv4), address(&lab, "b", ipv4));
            let (from, to, stop) = (&from, &to, &stop);
            scope.spawn(move || longest_pause((from, ends.0), (to, ends.1), stop))
        });
        // However this ends, the connections do too.
        let stop = StopAtEnd(&stop);
        std::thread::sleep(Duration::from_secs(1));
        let began = Instant::now();
        for (mode, encapsulated) in [("Always", true), ("Never", false), ("CrossSubnet", false), ("Always", true)] {
            lab.apply(&pools(mode));
            let capture = Capture::start(&lab.netns("node1"), "eth0");
            std::thread::sleep(Duration::from_secs(1));
            let captured = capture.stop();
            let (vxlan, plain) = (captured.count(VXLAN), captured.count(PLAIN));
            assert_eq!((vxlan > 50, plain > 50), (encapsulated, !encapsulated), "{mode}: {vxlan} and {plain} packets");
            let other = if encapsulated { plain } else { vxlan };
            assert_eq!(other, 0, "{mode}: all of it one way or the other");
            // CrossSubnet may encapsulate, so pods leave room for it.
            let mtu = if mode == "Never" { 1500 } else { 1430 };
            assert!(carries(&lab, ("a", "b"), mtu), "{mode}: the MTU is not {mtu}, or a packet of it does not arrive");
        }
        let until = Instant::now();
        std::thread::sleep(Duration::from_millis(300));
        drop(stop);
        for stream in &mut udp {
            stream.stop();
            let lost = stream.forth.lock().expect("log").lost(began, until)
                + stream.back.lock().expect("log").lost(began, until);
            let sent = stream.forth.lock().expect("log").sent(began, until);
            assert!(lost <= 2, "{lost} packets of {sent} each way were lost in four moves");
        }
        for connection in tcp {
            let pause = connection.join().expect("a connection");
            assert!(pause < STANDSTILL, "a connection stood still for {pause:?}");
            println!("the longest standstill of a connection: {pause:?}");
        }
    });
    // What no pool uses any more goes, a while later, with its address and what others know of it.
    lab.apply(&pools("Never"));
    assert!(ip(&lab, "node1", &["link"]).contains("vxlan.calico"), "others may not have heard yet");
    until("the devices are gone", || !ip(&lab, "node1", &["link"]).contains("vxlan"));
    until("their addresses are free", || {
        let blocks = lab.json(&["ipam", "show", "--show-blocks"]).to_string();
        !std::fs::read_dir(lab.path("datastore/.tortie/objects/IPAMHandle"))
            .expect("handles")
            .flatten()
            .any(|file| file.file_name().to_string_lossy().contains("vxlan"))
            && !blocks.is_empty()
    });
}

#[test]
fn an_agent_that_restarts_leaves_the_overlay_as_it_is() {
    let mut documents = vec![pod("a", "node1"), pod("b", "node2")];
    documents.extend(pools("Always"));
    let lab = Lab::up("vxr", &documents, &["--nodes", "2"]);
    let (from, to) = (lab.netns("default/a"), lab.netns("default/b"));
    let mut stream = Stream::start((&from, address(&lab, "a", true)), (&to, address(&lab, "b", true), 7000));
    std::thread::sleep(Duration::from_millis(500));
    let began = Instant::now();
    let before = (ip(&lab, "node1", &["route"]), ip(&lab, "node1", &["link"]));
    for mut agent in Agent::all(&lab).into_iter().filter(|agent| agent.node == "node1") {
        agent.kill();
        agent.start(&lab);
    }
    until("the agent answers", || UnixStream::connect(lab.path("nodes/node1/tortie.sock")).is_ok());
    until("the agent is ready", || lab.json(&["node", "status", "--node", "node1"])[0]["ready"] == true);
    let until = Instant::now();
    std::thread::sleep(Duration::from_millis(300));
    stream.stop();
    let lost = |log: &std::sync::Mutex<tortie_tests::stream::Log>| log.lock().expect("log").lost(began, until);
    assert_eq!((lost(&stream.forth), lost(&stream.back)), (0, 0), "packets were lost over the restart");
    assert_eq!(before, (ip(&lab, "node1", &["route"]), ip(&lab, "node1", &["link"])));
}
