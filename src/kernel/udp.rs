//! Datagrams that the kernel dropped at a UDP socket of this network namespace, from `/proc/net/udp` and `/proc/net/udp6`.

use std::path::Path;

/// Datagrams dropped at the socket since it was opened (`sk_drops`: its receive buffer was full, or a checksum was wrong). `None` if it
/// is not listed.
#[must_use]
pub fn drops(procfs: &Path, inode: u64) -> Option<u64> {
    ["net/udp", "net/udp6"].iter().find_map(|table| {
        let text = std::fs::read_to_string(procfs.join(table)).ok()?;
        text.lines()
            .filter_map(parse)
            .find(|row| row.0 == inode)
            .map(|row| row.1)
    })
}

/// Inode and drops of a line of the table.
fn parse(line: &str) -> Option<(u64, u64)> {
    let mut words = line.split_ascii_whitespace();
    let inode = words.nth(9)?.parse().ok()?;
    let drops = words.nth(2)?.parse().ok()?;
    Some((inode, drops))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn a_line_has_inode_and_drops() {
        let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops";
        let line = " 6101: 0100007F:1414 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 44331 2 0000000000000000 87";
        assert_eq!(parse(head), None);
        assert_eq!(parse(line), Some((44331, 87)));
        assert_eq!(parse(""), None);
    }

    #[test]
    fn a_socket_that_is_not_read_drops_what_does_not_fit() {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        rustix::net::sockopt::set_socket_recv_buffer_size(&receiver, 4096).unwrap();
        let inode = rustix::fs::fstat(&receiver).unwrap().st_ino;
        assert_eq!(drops(Path::new("/proc"), inode), Some(0));
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..100 {
            sender
                .send_to(&[0; 1000], receiver.local_addr().unwrap())
                .unwrap();
        }
        receiver.set_nonblocking(true).unwrap();
        let kept = std::iter::from_fn(|| receiver.recv(&mut [0; 1000]).ok()).count();
        assert_eq!(drops(Path::new("/proc"), inode), Some(100 - kept as u64));
    }
}
