//! Queues of unix listeners.

use rustix::io::Errno;
use rustix::net::SocketType;

use crate::common::exporter::Exporter;
use crate::common::exposition::Queue;
use crate::common::namespace::Namespace;
use crate::common::program::directory;
use crate::common::socket::{
    Listener, connect, connect_abstract, connect_all, connect_seqpacket, label,
};

#[test]
fn six_clients_fill_a_backlog_of_five_and_the_seventh_is_turned_away() {
    let _namespace = Namespace::enter();
    let directory = directory();
    let path = directory.path().join("g.sock");
    let listener = Listener::unix(&path, 5);
    let exporter = Exporter::start(&[]);
    let name = label(&path);

    let page = exporter.shows(&name);
    assert_eq!(page.queue(&name), Queue::of(0, 5));
    assert_eq!(page.of("listen_queue_depth_peak", &name), Some(0.0));
    assert_eq!(
        page.of("listen_queue_full_episodes_total", &name),
        Some(0.0)
    );
    assert_eq!(page.of("listen_queue_full_seconds_total", &name), Some(0.0));

    let _clients = connect_all(&path, 5);
    let page = exporter.fresh();
    assert_eq!(page.queue(&name), Queue::of(5, 5));
    assert_eq!(page.of("listen_queue_full_seconds_total", &name), Some(0.0));

    let _sixth = connect(&path).unwrap();
    let full = exporter.fresh();
    assert_eq!(full.queue(&name), Queue::of(6, 5));
    assert_eq!(
        full.of("listen_queue_full_episodes_total", &name),
        Some(1.0)
    );
    assert!(full.of("listen_queue_full_seconds_total", &name) > Some(0.0));

    assert_eq!(connect(&path).unwrap_err(), Errno::AGAIN);
    let page = exporter.fresh();
    assert_eq!(page.queue(&name), Queue::of(6, 5));
    assert!(
        page.of("listen_queue_full_seconds_total", &name)
            > full.of("listen_queue_full_seconds_total", &name)
    );

    let _accepted = listener.accept().unwrap();
    let drained = exporter.fresh();
    assert_eq!(drained.queue(&name), Queue::of(5, 5));
    let later = exporter.fresh();
    for page in [&drained, &later] {
        assert_eq!(
            page.of("listen_queue_full_episodes_total", &name),
            Some(1.0)
        );
        assert_eq!(page.of("listen_queue_depth_peak", &name), Some(6.0));
    }
    assert_eq!(
        later.of("listen_queue_full_seconds_total", &name),
        drained.of("listen_queue_full_seconds_total", &name)
    );
    assert!(later.get("listen_queue_samples_total") > drained.get("listen_queue_samples_total"));
}

#[test]
fn full_time_and_full_samples_agree() {
    let _namespace = Namespace::enter();
    let directory = directory();
    let path = directory.path().join("g.sock");
    let listener = Listener::unix(&path, 1);
    let exporter = Exporter::start(&[]);
    let name = label(&path);
    exporter.shows(&name);

    for episode in 1..=3 {
        let _clients = connect_all(&path, 2);
        exporter.fresh();
        listener.accept_all();
        let page = exporter.fresh();
        assert_eq!(
            page.of("listen_queue_full_episodes_total", &name),
            Some(f64::from(episode))
        );
    }
    let page = exporter.fresh();
    // Samples at a depth of 0 or 1 of 2 are at most half full, the others are full.
    let ratio = "listen_queue_utilization_ratio";
    let all = page.bucket(ratio, &name, "+Inf").unwrap();
    let full = all - page.bucket(ratio, &name, "0.99").unwrap();
    assert!(full >= 3.0, "{full} full samples");
    assert_eq!(page.bucket(ratio, &name, "1"), Some(all));
    let seconds = page.of("listen_queue_full_seconds_total", &name).unwrap();
    assert!(
        seconds > 0.0 && seconds <= full * 0.01 + 1e-9,
        "{seconds} s in {full} full samples of at most 10 ms"
    );
}

#[test]
fn each_sample_is_one_observation_of_the_utilization() {
    let _namespace = Namespace::enter();
    let directory = directory();
    let path = directory.path().join("g.sock");
    let _listener = Listener::unix(&path, 7);
    let _clients = connect_all(&path, 2);
    let exporter = Exporter::start(&[]);
    let name = label(&path);
    exporter.shows(&name);
    let page = exporter.fresh();
    // 2 of 8 is exactly a quarter.
    let ratio = "listen_queue_utilization_ratio";
    let bucket = |le| page.bucket(ratio, &name, le);
    let samples = page.get("listen_queue_samples_total");
    assert_eq!((bucket("0"), bucket("0.1")), (Some(0.0), Some(0.0)));
    for le in ["0.25", "0.5", "0.75", "0.9", "0.99", "1", "+Inf"] {
        assert_eq!(bucket(le), samples, "le {le}");
    }
    let sum = page.of(&format!("{ratio}_sum"), &name).unwrap();
    assert!((sum - samples.unwrap() / 4.0).abs() < 1e-6, "{sum}");
}

#[test]
fn a_backlog_above_somaxconn_is_cut_to_it() {
    let namespace = Namespace::enter();
    namespace.set_somaxconn(128);
    let directory = directory();
    let path = directory.path().join("g.sock");
    let _listener = Listener::unix(&path, 4096);
    let argument = format!("gunicorn=unix:{},backlog=4096", path.display());
    let exporter = Exporter::start(&["--listener", &argument]);

    let page = exporter.fresh();
    assert_eq!(page.queue("gunicorn"), Queue::of(0, 128));
    assert_eq!(
        page.of("listen_queue_requested_backlog", "gunicorn"),
        Some(4096.0)
    );
    assert_eq!(page.get("listen_queue_somaxconn"), Some(128.0));

    let _clients = connect_all(&path, 129);
    assert_eq!(connect(&path).unwrap_err(), Errno::AGAIN);
    assert_eq!(exporter.fresh().queue("gunicorn"), Queue::of(129, 128));
}

#[test]
fn a_raised_somaxconn_counts_only_after_listen_is_called_again() {
    let namespace = Namespace::enter();
    namespace.set_somaxconn(128);
    let directory = directory();
    let path = directory.path().join("g.sock");
    let listener = Listener::unix(&path, 1000);
    let exporter = Exporter::start(&[]);
    let name = label(&path);
    assert_eq!(exporter.shows(&name).queue(&name), Queue::of(0, 128));

    namespace.set_somaxconn(4096);
    let page = exporter.when("somaxconn 4096", |page| {
        page.get("listen_queue_somaxconn") == Some(4096.0)
    });
    assert_eq!(page.queue(&name), Queue::of(0, 128));

    listener.listen(1000);
    assert_eq!(exporter.fresh().queue(&name), Queue::of(0, 1000));
}

#[test]
fn listening_again_with_a_smaller_backlog_leaves_the_depth_above_the_capacity() {
    let _namespace = Namespace::enter();
    let directory = directory();
    let path = directory.path().join("g.sock");
    let listener = Listener::unix(&path, 100);
    let _clients = connect_all(&path, 50);
    let exporter = Exporter::start(&[]);
    let name = label(&path);
    exporter.shows(&name);

    listener.listen(5);
    let page = exporter.fresh();
    assert_eq!(page.queue(&name), Queue::of(50, 5));
    assert_eq!(
        page.of("listen_queue_full_episodes_total", &name),
        Some(1.0)
    );
    let ratio = "listen_queue_utilization_ratio";
    assert!(page.bucket(ratio, &name, "1") < page.bucket(ratio, &name, "+Inf"));
}

#[test]
fn clients_that_have_closed_stay_in_the_queue_until_accepted() {
    let _namespace = Namespace::enter();
    let directory = directory();
    let path = directory.path().join("g.sock");
    let listener = Listener::unix(&path, 5);
    let exporter = Exporter::start(&[]);
    let name = label(&path);
    exporter.shows(&name);

    drop(connect_all(&path, 6));
    assert_eq!(exporter.fresh().queue(&name), Queue::of(6, 5));
    assert_eq!(connect(&path).unwrap_err(), Errno::AGAIN);
    assert_eq!(listener.accept_all().len(), 6);
    assert_eq!(exporter.fresh().queue(&name), Queue::of(0, 5));
}

#[test]
fn an_abstract_listener_is_watched_by_its_name() {
    let _namespace = Namespace::enter();
    let _listener = Listener::abstract_unix(b"gunicorn", 5);
    let _other = Listener::abstract_unix(b"gunicorn2", 5);
    let _clients: Vec<_> = (0..3)
        .map(|_| connect_abstract(b"gunicorn").unwrap())
        .collect();
    let exporter = Exporter::start(&["--listener", "unix:@gunicorn"]);
    let page = exporter.fresh();
    assert_eq!(page.queue("unix:@gunicorn"), Queue::of(3, 5));
    assert_eq!(page.listeners().len(), 1);
    assert_eq!(
        page.labelled(
            "listen_queue_listener_info",
            &[
                ("address", "unix:@gunicorn"),
                ("family", "unix"),
                ("limit", "kernel"),
                ("limit", "kernel"),
                ("listener", "unix:@gunicorn")
            ]
        ),
        Some(1.0)
    );
}

#[test]
fn sockets_that_keep_message_boundaries_have_queues_too() {
    let _namespace = Namespace::enter();
    let directory = directory();
    let path = directory.path().join("s.sock");
    let _listener = Listener::unix_of_type(SocketType::SEQPACKET, &path, 1);
    let _clients = [(); 2].map(|()| connect_seqpacket(&path).unwrap());
    assert_eq!(connect_seqpacket(&path).unwrap_err(), Errno::AGAIN);
    let name = label(&path);
    let exporter = Exporter::start(&[]);
    assert_eq!(exporter.shows(&name).queue(&name), Queue::of(2, 1));
}

#[test]
fn only_sockets_that_listen_are_listeners() {
    let _namespace = Namespace::enter();
    let directory = directory();
    let path = directory.path().join("g.sock");
    let listener = Listener::unix(&path, 5);
    let _client = connect(&path).unwrap();
    let _accepted = listener.accept().unwrap();
    let _datagram =
        std::os::unix::net::UnixDatagram::bind(directory.path().join("d.sock")).unwrap();
    let _pair = std::os::unix::net::UnixStream::pair().unwrap();
    let exporter = Exporter::start(&[]);
    let name = label(&path);
    let page = exporter.shows(&name);
    assert_eq!(page.listeners(), [name.as_str()].into());
}

#[test]
fn a_namespace_without_listeners_is_a_valid_page_and_the_own_port_is_not_on_it() {
    let _namespace = Namespace::enter();
    let exporter = Exporter::start(&[]);
    let page = exporter.fresh();
    assert!(page.listeners().is_empty());
    for source in ["unix_diag", "inet_diag", "netstat", "sysctl"] {
        let source = [("source", source)];
        assert_eq!(page.labelled("listen_queue_source_up", &source), Some(1.0));
        assert_eq!(
            page.labelled("listen_queue_source_errors_total", &source),
            Some(0.0)
        );
    }
}

#[test]
fn excluded_listeners_are_not_watched() {
    let _namespace = Namespace::enter();
    let _kept = Listener::abstract_unix(b"kept", 5);
    let _left_out = Listener::abstract_unix(b"private-1", 5);
    let exporter = Exporter::start(&["--discover.exclude", "@private-[0-9]$"]);
    let page = exporter.shows("unix:@kept");
    assert_eq!(page.listeners(), ["unix:@kept"].into());
}
