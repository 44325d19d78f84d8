//! The interface end to end: a client, the socket, the routes, and a loop that is played by the test.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed call is the test's failure")]

use std::{future::Future, io::Write as _, os::unix::fs::PermissionsExt, path::Path};

use jiff::Timestamp;
use tokio::sync::{broadcast, mpsc, watch};

use super::{
    view::{AllowCheckView, EventKind, EventView},
    *,
};
use crate::enforce::Target;

struct World {
    client: Client,
    requests: mpsc::Receiver<Request>,
    events: broadcast::Sender<EventView>,
    stop: watch::Sender<bool>,
    metrics: std::net::SocketAddr,
}

/// Serves on a socket in a directory of its own while `scene` plays operator and loop.
async fn play<F: Future<Output = ()>>(scene: impl FnOnce(World) -> F) {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("run/tidegate.sock");
    let metrics = Some(([127, 0, 0, 1], 0).into());
    let listeners =
        Listeners::bind(&Settings { socket: socket.clone(), group: None, metrics }).await.unwrap();
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let (sender, requests) = mpsc::channel(4);
    let (events, _) = broadcast::channel(4);
    let (stop, stopped) = watch::channel(false);
    let world = World {
        client: Client::new(&socket),
        requests,
        events: events.clone(),
        stop,
        metrics: listeners.metrics_address().unwrap(),
    };
    let server = listeners.serve(Handle { requests: sender, events }, stopped);
    let (served, ()) = tokio::join!(server, scene(world));
    served.unwrap();
    assert!(!socket.exists(), "the socket goes with the daemon");
}

#[tokio::test]
async fn an_order_reaches_the_loop_with_the_operator_the_kernel_names() {
    play(|mut world| async move {
        let order = BlockOrder {
            target: "192.0.2.0/24".parse().unwrap(),
            ttl: Some("1h".parse().unwrap()),
            rate_pps: None,
            reason: "test".to_owned(),
        };
        let (answer, ()) = tokio::join!(world.client.block(&order), async {
            let Some(Request::AddBlock { order: received, operator, reply }) = world.requests.recv().await
            else {
                panic!("another request came in")
            };
            assert_eq!(received, order);
            assert_eq!(operator.uid, nix::unistd::getuid().as_raw());
            assert_eq!(operator.pid, Some(std::process::id() as i32));
            reply.send(Err(Refusal::refused("192.0.2.0/24 is protected", "delete the entry first"))).unwrap();
        });
        let Err(ClientError::Refused(refusal)) = answer else { panic!("not refused") };
        assert_eq!((refusal.kind, refusal.hint.as_str()), (RefusalKind::Refused, "delete the entry first"));
        world.stop.send(true).unwrap();
    })
    .await;
}

#[tokio::test]
async fn targets_travel_in_the_query_unharmed() {
    play(|mut world| async move {
        for text in ["192.0.2.7", "2001:db8::/48", "02:00:5e:10:00:01"] {
            let target: Target = text.parse().unwrap();
            let (answer, ()) = tokio::join!(world.client.check_allowed(&target), async {
                let Some(Request::CheckAllowed { target, reply }) = world.requests.recv().await else {
                    panic!("another request came in")
                };
                reply.send(Ok(AllowCheckView { target, protected: false, by: Vec::new() })).unwrap();
            });
            assert_eq!(answer.unwrap().target, target);
        }
        world.stop.send(true).unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_dropped_reply_is_an_answer() {
    play(|mut world| async move {
        let (answer, request) =
            tokio::join!(world.client.status(), async { drop(world.requests.recv().await) });
        let () = request;
        assert!(answer.unwrap_err().to_string().contains("dropped the request"));
        world.stop.send(true).unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_stop_answers_whoever_waits() {
    play(|mut world| async move {
        let (answer, unanswered) = tokio::join!(world.client.status(), async {
            let request = world.requests.recv().await;
            world.stop.send(true).unwrap();
            request
        });
        assert!(answer.unwrap_err().to_string().contains("stopping"));
        drop(unanswered);
    })
    .await;
}

#[tokio::test]
async fn events_are_followed_until_the_daemon_stops() {
    play(|world| async move {
        let mut follow = world.client.follow().await.unwrap();
        let event = EventView {
            time: Timestamp::UNIX_EPOCH,
            kind: EventKind::Verdict,
            message: "blocked\nwith a line break".to_owned(),
            target: Some("192.0.2.7".parse().unwrap()),
            incident: None,
        };
        world.events.send(event.clone()).unwrap();
        assert_eq!(follow.next().await.unwrap(), Some(event.clone()));
        for _ in 0..20 {
            world.events.send(event.clone()).unwrap();
        }
        let late = follow.next().await.unwrap().unwrap();
        assert!(late.message.contains("too slow"), "{late:?}");
        world.stop.send(true).unwrap();
        while let Some(event) = follow.next().await.unwrap() {
            assert_eq!(event.kind, EventKind::Verdict);
        }
    })
    .await;
}

#[tokio::test]
async fn metrics_are_served_apart_from_orders() {
    play(|mut world| async move {
        let scrape = |path: &'static str| {
            let address = world.metrics;
            tokio::task::spawn_blocking(move || {
                let mut stream = std::net::TcpStream::connect(address).unwrap();
                write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
                std::io::read_to_string(stream).unwrap()
            })
        };
        let (text, ()) = tokio::join!(scrape("/metrics"), async {
            let Some(Request::Metrics { reply }) = world.requests.recv().await else {
                panic!("another request came in")
            };
            reply.send(Ok(Box::default())).unwrap();
        });
        assert!(text.unwrap().contains("tidegate_kernel_seen_total 0"));
        assert!(scrape("/v1/blocks").await.unwrap().starts_with("HTTP/1.1 404"));
        world.stop.send(true).unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_a_live_one_never() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("tidegate.sock");
    let settings = Settings { socket: socket.clone(), group: None, metrics: None };
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let live = Listeners::bind(&settings).await.unwrap();
    assert!(matches!(Listeners::bind(&settings).await, Err(ApiError::Taken(_))));
    drop(live);
    std::fs::remove_file(&socket).unwrap();
    std::fs::write(&socket, "precious").unwrap();
    assert!(matches!(Listeners::bind(&settings).await, Err(ApiError::NotASocket(_))));
    assert_eq!(std::fs::read_to_string(&socket).unwrap(), "precious");
}

#[tokio::test]
async fn a_missing_daemon_and_a_missing_group_are_named() {
    let error = Client::new("/nonexistent/tidegate.sock").status().await.unwrap_err();
    assert!(error.to_string().contains("not running") && error.hint().contains("systemctl start"));
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("tidegate.sock");
    let group = Some("no-such-group".to_owned());
    let error =
        Listeners::bind(&Settings { socket: socket.clone(), group, metrics: None }).await.unwrap_err();
    assert!(error.to_string().contains("groupadd"), "{error}");
    assert!(!Path::new(&socket).exists());
}
