//! Sockets that are just there. They live in processes of their own: one may not open as many descriptors.

use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

/// First argument of the bench program when it holds sockets.
pub(crate) const COMMAND: &str = "hold";
/// Sockets that one process holds.
const EACH: u32 = 10_000;

/// Processes that end with this.
#[derive(Debug, Default)]
pub(crate) struct Held(Vec<Child>);

impl Held {
    /// `count` unix sockets that do not listen.
    pub(crate) fn unix(count: u32) -> Self {
        Self::start(|_| "unix".to_owned(), count)
    }

    /// `count` connections over loopback, both of whose ends are here.
    pub(crate) fn tcp(count: u32) -> Self {
        Self::start(|_| "127.0.0.1:0".to_owned(), count * 2)
    }

    /// The same, accepted at a port.
    pub(crate) fn tcp_at(port: u16, count: u32) -> Self {
        // Each process has an address of its own.
        Self::start(
            |process| format!("127.0.0.{}:{port}", process + 2),
            count * 2,
        )
    }

    fn start(what: impl Fn(usize) -> String, sockets: u32) -> Self {
        let mut held = Self::default();
        let mut left = sockets;
        while left > 0 {
            let now = left.min(EACH);
            left -= now;
            let program = std::env::current_exe().expect("this program");
            let mut child = Command::new(program)
                .args([COMMAND, &what(held.0.len()), &now.to_string()])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("this program starts");
            let mut line = String::new();
            let mut output = BufReader::new(child.stdout.take().expect("piped"));
            output.read_line(&mut line).expect("a line");
            assert_eq!(line, "ready\n");
            held.0.push(child);
        }
        held
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // The end of its input ends it.
            drop(child.stdin.take());
            let _ = child.wait();
        }
    }
}

/// Holds unix sockets, or connections to a TCP address, until the input ends.
pub(crate) fn run(what: &str, count: &str) {
    super::common::namespace::raise_open_files();
    let pairs = count.parse::<u32>().expect("a number") / 2;
    let sockets: Vec<Box<dyn std::any::Any>> = if what == "unix" {
        let pair = |_| Box::new(UnixStream::pair().expect("a pair")) as Box<_>;
        (0..pairs).map(pair).collect()
    } else {
        let listener = TcpListener::bind(what).expect("a port");
        let address = listener.local_addr().expect("an address");
        let connection = |_| {
            let near = TcpStream::connect(address).expect("a connection");
            Box::new((near, listener.accept().expect("its other end"))) as Box<_>
        };
        (0..pairs).map(connection).collect()
    };
    println!("ready");
    let _ = std::io::stdin().read(&mut [0]);
    drop(sockets);
}
