//! Whether the sockets of a kind are read one by one or by one dump, whichever costs the kernel less.

/// How the watched sockets of a kind are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Plan {
    /// There are none.
    #[default]
    Nothing,
    /// One exact lookup each.
    Each,
    /// One dump.
    Dump,
}

/// The cost of a lookup and of a dump, in tenths of a microsecond, measured on Linux 6.18. Only their ratios matter: with many other
/// unix sockets in the namespace lookup and dump of unix sockets slow down alike.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cost {
    lookup: usize,
    dump: usize,
    dump_each: usize,
}

pub(super) const UNIX: Cost = Cost {
    lookup: 60,
    dump: 200,
    dump_each: 3,
};
pub(super) const TCP: Cost = Cost {
    lookup: 31,
    dump: 110,
    dump_each: 4,
};

impl Cost {
    /// The cheaper plan for `watched` of `listed` sockets.
    pub(super) fn plan(self, watched: usize, listed: usize) -> Plan {
        if watched == 0 {
            Plan::Nothing
        } else if watched * self.lookup <= self.dump + listed * self.dump_each {
            Plan::Each
        } else {
            Plan::Dump
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_of_many_are_looked_up_and_many_are_dumped() {
        assert_eq!(UNIX.plan(0, 10), Plan::Nothing);
        assert_eq!(UNIX.plan(3, 3), Plan::Each);
        assert_eq!(UNIX.plan(4, 4), Plan::Dump);
        assert_eq!(UNIX.plan(4, 1000), Plan::Each);
        assert_eq!(UNIX.plan(256, 1000), Plan::Dump);
        assert_eq!(TCP.plan(4, 4), Plan::Each);
        assert_eq!(TCP.plan(5, 5), Plan::Dump);
    }
}
