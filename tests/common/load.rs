//! An open-loop load: requests start on schedule, whether or not those before them were answered.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

/// The maximum duration of a load. Its count is an argument.
const LIMIT: Duration = Duration::from_mins(2);
/// More than a status line needs.
const HEAD: usize = 1024;

/// `count` GETs of `/`, spread evenly over `over`. Returns the answers by status; 0 stands for none.
pub(crate) fn run(server: SocketAddr, count: u32, over: Duration) -> BTreeMap<u16, u32> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let start = Instant::now();
        let mut requests = JoinSet::new();
        for number in 0..count {
            let due = start + over * number / count;
            requests.spawn(async move {
                sleep_until(due).await;
                match timeout(LIMIT, get(server)).await {
                    Ok(Ok(status)) => status,
                    Ok(Err(_)) | Err(_) => 0,
                }
            });
        }
        let mut answers = BTreeMap::new();
        while let Some(status) = requests.join_next().await {
            *answers.entry(status.expect("no panic")).or_default() += 1;
        }
        answers
    })
}

async fn get(server: SocketAddr) -> io::Result<u16> {
    let stream = TcpStream::connect(server).await?;
    let request = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.writable().await?;
    // An empty socket buffer takes it whole.
    assert_eq!(stream.try_write(request)?, request.len());
    let mut answer = Vec::with_capacity(HEAD);
    loop {
        stream.readable().await?;
        let mut piece = [0; HEAD];
        match stream.try_read(&mut piece) {
            Ok(0) => break,
            Ok(length) => answer.extend_from_slice(&piece[..length]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    let head = String::from_utf8_lossy(&answer);
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    status.ok_or_else(|| io::Error::other("no status"))
}
