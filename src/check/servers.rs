//! What servers ask of `listen(2)` when nobody configures it.

/// A server's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Server {
    /// What people call it.
    pub name: &'static str,
    /// How its processes are named.
    process: &'static str,
    /// Whether a version may follow the process' name, as in php-fpm8.2. A title may always: `gunicorn: master`.
    versioned: bool,
    /// The backlog that it asks for.
    pub backlog: u32,
    /// Where one sets it.
    pub setting: &'static str,
    /// Where its documentation says so.
    pub source: &'static str,
}

/// Every server with a known default.
pub const SERVERS: &[Server] = &[
    Server {
        name: "gunicorn",
        process: "gunicorn",
        versioned: false,
        backlog: 2048,
        setting: "gunicorn --backlog",
        source: "https://docs.gunicorn.org/en/stable/settings.html#backlog",
    },
    Server {
        name: "nginx",
        process: "nginx",
        versioned: false,
        backlog: 511,
        setting: "nginx: listen ... backlog=",
        source: "https://nginx.org/en/docs/http/ngx_http_core_module.html#listen",
    },
    Server {
        name: "uWSGI",
        process: "uwsgi",
        versioned: true,
        backlog: 100,
        setting: "uwsgi --listen",
        source: "https://uwsgi-docs.readthedocs.io/en/latest/Options.html#listen",
    },
    Server {
        name: "PHP-FPM",
        process: "php-fpm",
        versioned: true,
        backlog: 511,
        setting: "php-fpm: listen.backlog",
        source: "https://www.php.net/manual/en/install.fpm.configuration.php#listen-backlog",
    },
    Server {
        name: "Redis",
        process: "redis-server",
        versioned: false,
        backlog: 511,
        setting: "redis.conf: tcp-backlog",
        source: "https://raw.githubusercontent.com/redis/redis/unstable/redis.conf",
    },
    Server {
        name: "Node.js",
        process: "node",
        versioned: false,
        backlog: 511,
        setting: "Node.js: server.listen({ backlog })",
        source: "https://nodejs.org/api/net.html#serverlisten",
    },
];

/// The server that a process of this name is.
#[must_use]
pub fn server(process: &str) -> Option<&'static Server> {
    SERVERS.iter().find(|server| {
        let rest = process.strip_prefix(server.process);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':') || server.versioned)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_known_by_its_process() {
        let name = |process| server(process).map(|server| server.name);
        assert_eq!(name("gunicorn"), Some("gunicorn"));
        assert_eq!(name("gunicorn: maste"), Some("gunicorn"));
        assert_eq!(name("php-fpm8.2"), Some("PHP-FPM"));
        assert_eq!(name("uwsgi-core"), Some("uWSGI"));
        assert_eq!(name("node_exporter"), None);
        assert_eq!(name(""), None);
    }
}
