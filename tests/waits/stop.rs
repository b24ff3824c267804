//! Half a minute in which the exporter is stopped, as by a debugger, a freezer or a machine that is paused.

use std::io::{Read, Write};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use rustix::process::Signal;

use crate::common::exporter::Exporter;
use crate::common::exposition::{Page, Queue};
use crate::common::http;
use crate::common::namespace::Namespace;
use crate::common::program::directory;
use crate::common::socket::{Listener, connect, connect_tcp, knock_tcp, label};
use crate::common::wait;

const TCP: &str = "tcp:127.0.0.1:8000";
const ADDRESS: &str = "127.0.0.1:8000";
const SAMPLES: &str = "listen_queue_samples_total";

#[test]
fn of_a_stop_of_half_a_minute_nothing_is_lost_and_nothing_is_made_up() {
    let namespace = Namespace::enter();
    namespace.set("unix/max_dgram_qlen", 512);
    let home = directory();
    let (path, syslog) = (home.path().join("g.sock"), home.path().join("log.sock"));
    let name = label(&path);
    let listener = Listener::unix(&path, 0);
    let _client = connect(&path).unwrap();
    let _tcp = Listener::tcp(ADDRESS, 0);
    let _tcp_client = connect_tcp(ADDRESS);
    let exporter = Exporter::start(&[
        "--listener",
        &name,
        "--listener",
        TCP,
        "--nginx.syslog",
        &label(&syslog),
    ]);
    let before = exporter.fresh();
    assert_eq!(before.queue(&name), Queue::of(1, 0));
    assert_eq!(before.queue(TCP), Queue::of(1, 0));

    exporter.signal(Signal::STOP);
    (0..7).for_each(|_| knock_tcp(ADDRESS));
    let log = UnixDatagram::unbound().unwrap();
    let refused = format!(
        "<187>Nov 27 02:53:43 nginx: 2026/11/27 02:53:43 [error] 1#1: *1 connect() to {name} failed (11: Resource temporarily unavailable) while \
         connecting to upstream, client: 127.0.0.1, server: , request: \"GET / HTTP/1.1\", upstream: \"http://{name}:/\", host: \"x\""
    );
    for _ in 0..100 {
        log.send_to(refused.as_bytes(), &syslog).unwrap();
    }
    let mut scrapes: Vec<_> = (0..5).map(|_| http::connect(exporter.address())).collect();
    for scrape in &mut scrapes {
        scrape
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .unwrap();
    }
    std::thread::sleep(Duration::from_secs(29));
    // It is full again at the next sample.
    drop(listener.accept().unwrap());
    let _client = connect(&path).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    exporter.signal(Signal::CONT);

    for mut scrape in scrapes {
        let mut answer = String::new();
        scrape.read_to_string(&mut answer).unwrap();
        let (head, page) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(Page::parse(page).unwrap().queue(TCP).is_some());
    }
    wait::until_true("it to be healthy", || {
        exporter.get("/-/healthy").status == 200
    });
    let refusals = [("listener", name.as_str()), ("source", "nginx_log")];
    let after = exporter.when("what was counted meanwhile", |page| {
        page.labelled("listen_queue_refused_connects_total", &refusals) == Some(100.0)
    });
    assert_eq!(after.queue(&name), Queue::of(1, 0));
    assert_eq!(after.queue(TCP), Queue::of(1, 0));
    assert_eq!(
        after.of("listen_queue_listener_drops_total", TCP),
        Some(7.0)
    );
    let after = exporter.when("the counters of the namespace", |page| {
        page.get("listen_queue_tcp_listen_overflows_total") == Some(7.0)
    });
    let grown = |of: &dyn Fn(&Page) -> Option<f64>| of(&after).unwrap() - of(&before).unwrap();
    // A page may be taken after the sample of a round and before the round itself is counted.
    let rounds = grown(&|page| page.get(SAMPLES));
    assert!(grown(&|page| page.get("listen_queue_samples_late_total")) >= 1.0);
    for listener in [&name, TCP] {
        let of = |metric: &'static str| move |page: &Page| page.of(metric, listener);
        let full = grown(&of("listen_queue_full_seconds_total"));
        assert!(
            full > 0.0 && full <= (rounds + 1.0) * 0.01 + 1e-9,
            "{full} s in {rounds} rounds of 10 ms"
        );
        assert_eq!(of("listen_queue_full_episodes_total")(&after), Some(1.0));
        assert_eq!(
            of("listen_queue_listener_replacements_total")(&after),
            Some(0.0)
        );
        let observed =
            grown(&|page: &Page| page.bucket("listen_queue_utilization_ratio", listener, "+Inf"));
        assert!(
            (observed - rounds).abs() <= 1.0,
            "{observed} in {rounds} rounds"
        );
    }
}
