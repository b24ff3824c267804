//! The backlog that servers pass to `listen(2)` by default. docs/check.md is generated from this table.

/// A server and its default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Server {
    /// Its common name.
    pub name: &'static str,
    /// Names of its processes; empty if these do not identify it.
    processes: &'static [&'static str],
    /// Whether a version may follow the name of the process, as in php-fpm8.2. A title may always follow: `gunicorn: master`.
    versioned: bool,
    /// The backlog that it requests.
    pub backlog: Backlog,
    /// The setting that changes it.
    pub setting: &'static str,
    /// The documentation or code of the server that states it.
    pub source: &'static str,
}

/// A requested backlog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backlog {
    /// Always this number.
    Fixed(u32),
    /// The value of another setting.
    As(&'static str),
}

/// Every server with a known default.
pub const SERVERS: &[Server] = &[
    Server {
        name: "gunicorn",
        processes: &["gunicorn"],
        versioned: false,
        backlog: Backlog::Fixed(2048),
        setting: "gunicorn --backlog",
        source: "https://docs.gunicorn.org/en/stable/settings.html#backlog",
    },
    Server {
        name: "uvicorn",
        processes: &["uvicorn"],
        versioned: false,
        backlog: Backlog::Fixed(2048),
        setting: "uvicorn --backlog",
        source: "https://www.uvicorn.org/settings/",
    },
    Server {
        name: "hypercorn",
        processes: &["hypercorn"],
        versioned: false,
        backlog: Backlog::Fixed(100),
        setting: "hypercorn --backlog",
        source: "https://hypercorn.readthedocs.io/en/latest/how_to_guides/configuring.html",
    },
    Server {
        name: "granian",
        processes: &["granian"],
        versioned: false,
        backlog: Backlog::Fixed(1024),
        setting: "granian --backlog",
        source: "https://github.com/emmett-framework/granian",
    },
    Server {
        name: "waitress",
        processes: &["waitress-serve"],
        versioned: false,
        backlog: Backlog::Fixed(1024),
        setting: "waitress-serve --backlog",
        source: "https://docs.pylonsproject.org/projects/waitress/en/stable/arguments.html",
    },
    Server {
        name: "uWSGI",
        processes: &["uwsgi"],
        versioned: true,
        backlog: Backlog::Fixed(100),
        setting: "uwsgi --listen",
        source: "https://uwsgi-docs.readthedocs.io/en/latest/Options.html#listen",
    },
    Server {
        name: "Puma",
        processes: &["puma"],
        versioned: true,
        backlog: Backlog::Fixed(1024),
        setting: "puma: bind \"tcp://...?backlog=\"",
        source: "https://puma.io/puma/Puma/DSL.html#bind-instance_method",
    },
    Server {
        name: "Unicorn",
        processes: &["unicorn"],
        versioned: true,
        backlog: Backlog::Fixed(1024),
        setting: "unicorn.conf.rb: listen ..., backlog:",
        source: "https://yhbt.net/unicorn/Unicorn/Configurator.html#method-i-listen",
    },
    Server {
        name: "PHP-FPM",
        processes: &["php-fpm"],
        versioned: true,
        backlog: Backlog::Fixed(511),
        setting: "php-fpm: listen.backlog",
        source: "https://www.php.net/manual/en/install.fpm.configuration.php#listen-backlog",
    },
    Server {
        name: "Node.js",
        processes: &["node"],
        versioned: false,
        backlog: Backlog::Fixed(511),
        setting: "Node.js: server.listen({ backlog })",
        source: "https://nodejs.org/api/net.html#serverlisten",
    },
    Server {
        name: "Tomcat",
        processes: &[],
        versioned: false,
        backlog: Backlog::Fixed(100),
        setting: "Tomcat: acceptCount",
        source: "https://tomcat.apache.org/tomcat-10.1-doc/config/http.html",
    },
    Server {
        name: "nginx",
        processes: &["nginx"],
        versioned: false,
        backlog: Backlog::Fixed(511),
        setting: "nginx: listen ... backlog=",
        source: "https://nginx.org/en/docs/http/ngx_http_core_module.html#listen",
    },
    Server {
        name: "Apache httpd",
        processes: &["apache2", "httpd"],
        versioned: false,
        backlog: Backlog::Fixed(511),
        setting: "httpd: ListenBackLog",
        source: "https://httpd.apache.org/docs/2.4/mod/mpm_common.html#listenbacklog",
    },
    Server {
        name: "HAProxy",
        processes: &["haproxy"],
        versioned: false,
        backlog: Backlog::As("the frontend's maxconn"),
        setting: "haproxy: backlog",
        source: "https://docs.haproxy.org/2.8/configuration.html#4.2-backlog",
    },
    Server {
        name: "Envoy",
        processes: &["envoy"],
        versioned: false,
        backlog: Backlog::As("net.core.somaxconn"),
        setting: "Envoy: tcp_backlog_size",
        source: "https://www.envoyproxy.io/docs/envoy/latest/api-v3/config/listener/v3/listener.proto",
    },
    Server {
        name: "Redis",
        processes: &["redis-server"],
        versioned: false,
        backlog: Backlog::Fixed(511),
        setting: "redis.conf: tcp-backlog",
        source: "https://raw.githubusercontent.com/redis/redis/unstable/redis.conf",
    },
    Server {
        name: "memcached",
        processes: &["memcached"],
        versioned: false,
        backlog: Backlog::Fixed(1024),
        setting: "memcached -b",
        source: "https://github.com/memcached/memcached/blob/master/doc/memcached.1",
    },
    Server {
        name: "PostgreSQL",
        processes: &["postgres"],
        versioned: false,
        backlog: Backlog::As("twice max_connections"),
        setting: "postgresql.conf: max_connections",
        source: "https://github.com/postgres/postgres/blob/master/src/backend/libpq/pqcomm.c",
    },
    Server {
        name: "MySQL",
        processes: &["mysqld"],
        versioned: false,
        backlog: Backlog::As("max_connections"),
        setting: "my.cnf: back_log",
        source: "https://dev.mysql.com/doc/refman/8.4/en/server-system-variables.html#sysvar_back_log",
    },
    Server {
        // Until version 10.4 its process is mysqld, too.
        name: "MariaDB",
        processes: &["mariadbd"],
        versioned: false,
        backlog: Backlog::As("the lower of 900 and 50 + max_connections / 5"),
        setting: "my.cnf: back_log",
        source: "https://mariadb.com/kb/en/server-system-variables/#back_log",
    },
    Server {
        name: "Go (net.Listen)",
        processes: &[],
        versioned: false,
        backlog: Backlog::As("net.core.somaxconn"),
        setting: "none: net.ListenConfig with a Control function cannot set it",
        source: "https://github.com/golang/go/blob/master/src/net/sock_linux.go",
    },
    Server {
        name: "tokio (TcpListener::bind)",
        processes: &[],
        versioned: false,
        backlog: Backlog::Fixed(1024),
        setting: "tokio: TcpSocket::listen(backlog)",
        source: "https://docs.rs/tokio/latest/tokio/net/struct.TcpListener.html",
    },
    Server {
        name: "Rust std (TcpListener::bind)",
        processes: &[],
        versioned: false,
        backlog: Backlog::Fixed(128),
        setting: "none: make the socket with another crate",
        source: "https://github.com/rust-lang/rust/blob/master/library/std/src/sys/net/connection/socket/mod.rs",
    },
];

/// The server to which a process with this name belongs.
#[must_use]
pub fn server(process: &str) -> Option<&'static Server> {
    SERVERS.iter().find(|server| {
        server.processes.iter().any(|name| {
            let rest = process.strip_prefix(name);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':') || server.versioned)
        })
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
        assert_eq!(name("puma 6.4.2"), Some("Puma"));
        assert_eq!(name("apache2"), Some("Apache httpd"));
        assert_eq!(name("mariadbd"), Some("MariaDB"));
        assert_eq!(name("mysqld"), Some("MySQL"));
        assert_eq!(name("node_exporter"), None);
        assert_eq!(name("postgres_export"), None);
        assert_eq!(name(""), None);
    }

    #[test]
    fn every_server_has_a_name_of_its_own_and_a_source() {
        let mut names: Vec<&str> = SERVERS.iter().map(|server| server.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), SERVERS.len());
        assert!(
            SERVERS
                .iter()
                .all(|server| server.source.starts_with("https://"))
        );
    }
}
