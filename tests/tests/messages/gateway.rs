//! The guard as a part of the running gateway: devices of the lab talk to it through guarded ports.

use std::{net::SocketAddr, time::Duration};

use tidegate_tests::{mqtt::Client, topology::GATEWAY, wait_for};

use super::{
    common::guarded,
    setup::{PATIENCE, hello},
};

const BROKER: (std::net::Ipv4Addr, u16) = (GATEWAY, 2883);

#[test]
fn devices_talk_through_the_gateway_and_an_isolated_one_is_cut() {
    let name = "messages::devices_talk_through_the_gateway_and_an_isolated_one_is_cut";
    let net = guarded(name, |settings| {
        settings.keys.extend([
            ("messages.listen", format!("\"{GATEWAY}:{}\"", BROKER.1)),
            ("messages.anonymous", "true".to_owned()),
            (
                "messages.rules",
                "[{ who = \"*\", publish = [\"d/%c/#\", \"news\"], subscribe = [\"d/%c/#\", \"news\"] }]"
                    .to_owned(),
            ),
        ]);
    });
    let Some(net) = net else { return };
    let connect = |device: &str| {
        let netns = &net.device(device).netns;
        let address = SocketAddr::from(BROKER);
        netns.enter(|| Client::open(address, &hello(device), Duration::from_secs(5))).unwrap()
    };
    let (mut camera, mut hub) = (connect("camera"), connect("hub"));
    camera.subscribe("news").unwrap();
    hub.publish("news", b"hello").unwrap();
    assert_eq!(camera.receive().unwrap(), ("news".to_owned(), b"hello".to_vec()));
    camera.publish("d/hub/off", b"forged").unwrap();
    let messages = net.tidegate(&["status"])["messages"].clone();
    assert_eq!(messages["sessions"], 2, "{messages}");
    assert_eq!(messages["refused"]["publish-topic"], 1, "{messages}");

    net.tidegate(&["devices", "isolate", net.device("camera").mac, "--level", "full"]);
    let sessions = || (net.tidegate(&["status"])["messages"]["sessions"] == 1).then_some(());
    assert!(wait_for(PATIENCE, sessions).is_some(), "{}", net.tidegate(&["status"])["messages"]);
    hub.publish("news", b"the others go on").unwrap();
}
