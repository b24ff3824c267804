//! Scans of TCP queues for the connections that wait in them. For each scan the kernel walks the TCP table of the whole host. A scan therefore
//! runs only while the queue of a listener is not empty, no more often than configured, and a round starts none after half its interval.

use std::collections::HashMap;
use std::time::Duration;

use super::sockets::{Outcomes, Sockets};
use crate::kernel::inet::{Bound, Family, Member, Stage};
use crate::sample::TcpWaiting;

#[derive(Debug)]
pub(super) struct Scans {
    interval: Duration,
    round: Duration,
    ports: HashMap<(Family, u16), Port>,
}

/// One scan finds the connections of all listeners of a port.
#[derive(Debug, Default)]
struct Port {
    wanted: bool,
    /// When the next scan is due.
    next: Duration,
    /// The result of the last scan for each address that a socket is listening at.
    found: Vec<(Bound, TcpWaiting)>,
}

impl Scans {
    /// Scans that are at least `interval` apart, in rounds that are `round` apart.
    pub(super) fn new(interval: Duration, round: Duration) -> Self {
        Self {
            interval,
            round,
            ports: HashMap::new(),
        }
    }

    /// Requests a scan in this round, if one is due.
    pub(super) fn want(&mut self, bound: Bound) {
        self.ports.entry(key(bound)).or_default().wanted = true;
    }

    /// Records that no connection waits at an address: the result of the last scan is outdated.
    pub(super) fn empty(&mut self, bound: Bound) {
        if let Some(port) = self.ports.get_mut(&key(bound)) {
            port.found.retain(|(known, _)| *known != bound);
        }
    }

    /// Runs the scans that were requested in the round that started at `started`.
    pub(super) fn take(
        &mut self,
        started: Duration,
        sockets: &mut Sockets,
        outcomes: &mut Outcomes,
    ) {
        if self.ports.is_empty() {
            return;
        }
        // Rounds start a little late, by varying amounts.
        let soon = started + self.round / 2;
        self.ports.retain(|_, port| port.wanted || port.next > soon);
        let is_due = |(_, port): &(_, &mut Port)| port.wanted && port.next <= soon;
        let mut due: Vec<_> = self.ports.iter_mut().filter(is_due).collect();
        due.sort_unstable_by_key(|(_, port)| port.next);
        for ((family, number), port) in due {
            port.scan(*family, *number, sockets, outcomes);
            let on_time = started < port.next + self.round;
            port.next = self.interval + if on_time { port.next } else { started };
            if super::now() >= soon {
                break;
            }
        }
        for port in self.ports.values_mut() {
            port.wanted = false;
        }
    }

    /// The sum over some addresses; none unless all of them were scanned.
    pub(super) fn found(&self, bounds: &[Bound]) -> Option<TcpWaiting> {
        let find = |bound: &Bound| {
            let port = self.ports.get(&key(*bound))?;
            let found = port.found.iter().find(|(b, _)| b == bound);
            found.map(|(_, found)| *found)
        };
        bounds.iter().try_fold(TcpWaiting::default(), |sum, bound| {
            let found = find(bound)?;
            Some(TcpWaiting {
                oldest: sum.oldest.max(found.oldest),
                abandoned: sum.abandoned + found.abandoned,
                half_open: sum.half_open + found.half_open,
            })
        })
    }
}

impl Port {
    fn scan(&mut self, family: Family, port: u16, sockets: &mut Sockets, outcomes: &mut Outcomes) {
        self.found.clear();
        for bound in sockets.listening_at(family, port) {
            if self.found.iter().all(|(known, _)| *known != bound) {
                self.found.push((bound, TcpWaiting::default()));
            }
        }
        let found = &mut self.found;
        let done = sockets.members(family, port, outcomes, |member| {
            let belongs = |(bound, _): &&mut (Bound, TcpWaiting)| preference(*bound, member) > 0;
            let listeners = found.iter_mut().filter(belongs);
            if let Some((_, found)) = listeners.max_by_key(|(bound, _)| preference(*bound, member))
            {
                count(found, member.stage);
            }
        });
        if !done {
            self.found.clear();
        }
    }
}

fn key(bound: Bound) -> (Family, u16) {
    (bound.family(), bound.address.port())
}

fn count(found: &mut TcpWaiting, stage: Stage) {
    match stage {
        Stage::HalfOpen => found.half_open += 1,
        Stage::Waiting { age, client_closed } => {
            found.oldest = found.oldest.max(Some(age));
            found.abandoned += u64::from(client_closed);
        }
    }
}

/// How well a listener of the member's port and family fits it, as the kernel chooses: the address itself before any address, and
/// its interface before any; 0 if it cannot be its listener.
fn preference(listener: Bound, member: Member) -> u8 {
    let (own, local) = (listener.address.ip(), member.local.address.ip());
    let address = if own == local {
        6
    } else if own.to_canonical().is_unspecified() && own.to_canonical().is_ipv4() {
        // 0.0.0.0, or ::ffff:0.0.0.0 of an IPv6 socket.
        if local.to_canonical().is_ipv4() { 4 } else { 0 }
    } else if own.is_unspecified() {
        2
    } else {
        0
    };
    match listener.interface {
        _ if address == 0 => 0,
        0 => address,
        interface if interface == member.local.interface => address + 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(address: &str, interface: u32) -> Bound {
        Bound {
            address: address.parse().unwrap(),
            interface,
        }
    }

    #[test]
    fn a_connection_belongs_to_the_listener_that_the_kernel_prefers() {
        let member = |local| Member {
            local,
            stage: Stage::HalfOpen,
        };
        let order = |local: Bound, listeners: &[(&str, u32)]| {
            let each = listeners
                .iter()
                .map(|(address, interface)| preference(bound(address, *interface), member(local)));
            let each: Vec<_> = each.collect();
            assert!(each.windows(2).all(|pair| pair[0] > pair[1]), "{each:?}");
            assert_eq!(each.last(), Some(&0));
        };
        order(
            bound("127.0.0.1:80", 0),
            &[("127.0.0.1:80", 0), ("0.0.0.0:80", 0), ("127.0.0.2:80", 0)],
        );
        order(
            bound("127.0.0.1:80", 3),
            &[("0.0.0.0:80", 3), ("0.0.0.0:80", 0), ("127.0.0.1:80", 4)],
        );
        order(
            bound("[::ffff:127.0.0.1]:80", 0),
            &[
                ("[::ffff:127.0.0.1]:80", 0),
                ("[::ffff:0.0.0.0]:80", 0),
                ("[::]:80", 0),
                ("[::1]:80", 0),
            ],
        );
        order(
            bound("[::1]:80", 0),
            &[("[::1]:80", 0), ("[::]:80", 0), ("[::ffff:0.0.0.0]:80", 0)],
        );
    }
}
