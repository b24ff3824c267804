//! Which of the listeners that discovery found are watched.

use std::str::FromStr;

use regex_lite::Regex;

/// What discovery excludes by default: sockets that exist on many hosts and serve no users.
///
/// In order: containerd's shims, ssh agents (in the home directory since OpenSSH 10.1), the debugging sockets of Java and .NET, Python's
/// multiprocessing (also as abstract names), Visual Studio Code, Neovim, the control socket of gunicorn, and loopback ports of the range from which the kernel assigns them, except
/// 50051, on which gRPC servers listen by convention.
pub const DEFAULT_EXCLUDE: &str = concat!(
    r"^unix:(/run/containerd/s/[0-9a-f]+|@/containerd-shim/.+",
    r"|/tmp/ssh-[^/]+/agent\.[^/]+|/.+/\.ssh/agent/s\.[^/]+",
    r"|/tmp/\.java_pid[0-9]+|/tmp/dotnet-diagnostic-[^/]+",
    r"|/.+/pymp-[^/]+/listener-[^/]+|@listener-[0-9]+-[0-9]+",
    r"|/.+/vscode-[^/]+\.sock|/.+/nvim\.[^/]+|/.+/gunicorn\.ctl",
    r")$|^tcp:(127\.[0-9.]+|\[::1\]|\[::ffff:127\.[0-9.]+\]):(3276[89]|327[7-9].|32[89]..|3[3-9]...|4....|500[0-46-9].|5005[02-9]|50[1-9]..|5[1-9]...|60...)$",
);

/// A regular expression that matches anywhere in an address. The empty one matches nothing.
#[derive(Debug, Clone, Default)]
pub struct Pattern(Option<Regex>);

impl FromStr for Pattern {
    type Err = regex_lite::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let regex = (!text.is_empty()).then(|| Regex::new(text)).transpose()?;
        Ok(Self(regex))
    }
}

impl Pattern {
    fn matches(&self, name: &str) -> bool {
        self.0.as_ref().is_some_and(|regex| regex.is_match(name))
    }
}

/// Which discovered listeners are watched.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// What is excluded.
    pub exclude: Pattern,
    /// If set, only these listeners are watched.
    pub include: Option<Pattern>,
}

impl Filter {
    /// Whether a listener with this address is watched.
    #[must_use]
    pub fn takes(&self, name: &str) -> bool {
        let is_included = match &self.include {
            Some(include) => include.matches(name),
            None => true,
        };
        is_included && !self.exclude.matches(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(exclude: &str, include: Option<&str>) -> Filter {
        Filter {
            exclude: exclude.parse().unwrap(),
            include: include.map(|text| text.parse().unwrap()),
        }
    }

    #[test]
    fn the_default_leaves_out_what_comes_and_goes_on_every_host() {
        let filter = filter(DEFAULT_EXCLUDE, None);
        for name in [
            "unix:/run/containerd/s/0d3f0f6e58c9d7e0a2ee7a9dcf0fbdbb1c8eb4c5d2a05a6f3b0f2d7f1a2b3c4d",
            r"unix:@/containerd-shim/moby/4f1e9f4d/shim.sock\x00",
            "unix:/tmp/ssh-jbT2HgQw1x/agent.4021",
            "unix:/home/ana/.ssh/agent/s.Hk2x9Qw1bR.agent.a8ZkP0sYtL",
            "unix:/tmp/.java_pid4021",
            "unix:/tmp/dotnet-diagnostic-1-83-socket",
            "unix:/tmp/pymp-_0lv5q4y/listener-3a1s6x9t",
            "unix:/var/tmp/pymp-abc/listener-def",
            "unix:@listener-1234-0",
            "unix:/tmp/vscode-ipc-0a1b2c3d.sock",
            "unix:/run/user/1000/vscode-git-5f2e.sock",
            "unix:/run/user/1000/nvim.4242.0",
            "unix:/tmp/nvim.root/GkB1Qz/nvim.99.0",
            "unix:/home/ana/.gunicorn/gunicorn.ctl",
            "unix:/run/user/1000/gunicorn.ctl",
            "tcp:127.0.0.1:32768",
            "tcp:127.0.0.1:39999",
            "tcp:127.0.0.11:41237",
            "tcp:[::1]:50050",
            "tcp:[::1]:60999",
            "tcp:[::ffff:127.0.0.1]:41237",
        ] {
            assert!(!filter.takes(name), "{name}");
        }
    }

    #[test]
    fn the_default_keeps_listeners_that_serve_clients() {
        let filter = filter(DEFAULT_EXCLUDE, None);
        for name in [
            "unix:/run/gunicorn.socket",
            "unix:/run/app/gunicorn.socket",
            "unix:/tmp/gunicorn.sock",
            "unix:/tmp/uwsgi/listener-1",
            "unix:/run/containerd/containerd.sock",
            "unix:/run/php/php8.2-fpm.sock",
            "unix:/var/run/fail2ban/fail2ban.sock",
            "unix:/run/user/1000/gunicorn.sock",
            "unix:@app",
            "unix:@listener-web",
            "tcp:0.0.0.0:41237",
            "tcp:[::]:50000",
            "tcp:10.0.0.7:33060",
            "tcp:127.0.0.1:8000",
            "tcp:127.0.0.1:32767",
            "tcp:127.0.0.1:50051",
            "tcp:127.0.0.1:61000",
            "tcp:[::1]:6379",
        ] {
            assert!(filter.takes(name), "{name}");
        }
    }

    #[test]
    fn what_is_taken_is_included_and_not_excluded() {
        let both = filter("admin", Some("^unix:/run/"));
        assert!(both.takes("unix:/run/app.sock"));
        assert!(!both.takes("unix:/run/admin.sock"));
        assert!(!both.takes("tcp:0.0.0.0:80"));
        assert!(!filter("", Some("")).takes("tcp:0.0.0.0:80"));
    }

    #[test]
    fn the_empty_expression_leaves_nothing_out() {
        assert!(filter("", None).takes("tcp:127.0.0.1:40000"));
        assert!("(".parse::<Pattern>().is_err());
    }
}
