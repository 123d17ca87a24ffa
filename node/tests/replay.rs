//! A recorded run makes the core take the same actions again.

mod common;

use common::{Fabric, until};
use serde_json::{Value, json};
use tortie_felix::{Action, Config, Event, Felix};

fn of<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{error}: {value}"))
}

#[tokio::test]
async fn a_recording_replays() {
    let mut fabric = Fabric::new().await;
    fabric.plug("one").await;
    let recording = fabric.folder.path().join("run.jsonl");
    fabric.nodes[0].flags = vec!["--record".into(), recording.to_str().expect("a plain path").into()];
    fabric.nodes[0].start();
    fabric.settle().await;
    fabric.pod("web", &json!({ "app": "web" }), "one");
    let web = fabric.start_pod("web", 0);
    let node = &fabric.nodes[0];
    node.run("ip", &["route", "del", &web.ip(true).to_string()]);
    until("the route is back", || async {
        node.run("ip", &["route"]).contains(&web.ip(true).to_string()).then_some(())
    })
    .await;
    fabric.cni(0, "DEL", "web", &web.netns).expect("DEL");
    assert!(fabric.nodes[0].stop().success());

    let text = std::fs::read_to_string(&recording).expect("a recording");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("whole lines")).collect();
    let config: Config = of(&lines[0]["config"]);
    let mut felix = Felix::new(config);
    let mut actions = 0;
    let mut polling = false;
    for line in &lines[1..] {
        if let Some(action) = line.get("action") {
            assert_eq!(felix.poll(), Some(of::<Action>(action)));
            actions += 1;
            continue;
        }
        if std::mem::take(&mut polling) {
            assert_eq!(felix.poll(), None);
        }
        if let Some(event) = line.get("event") {
            felix.handle(of::<Event>(&event["event"]), of(&event["at"]));
        } else if let Some(timeout) = line.get("timeout") {
            felix.handle_timeout(of(&timeout["at"]));
        } else {
            assert_eq!(line, "poll");
            polling = true;
        }
    }
    assert!(actions > 10, "{actions}");
    assert_eq!(felix.endpoints().count(), 0);
}
