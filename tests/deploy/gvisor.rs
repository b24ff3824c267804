//! In gVisor, whose kernel has no sock_diag.

use std::process::Stdio;

use crate::common::exporter::BINARY;
use crate::common::exposition::Page;
use crate::files::container_tool;
use listen_queue_exporter::cli::PORT;

/// Starts the exporter inside, prints its page, ends it and prints its log.
const INSIDE: &str = r#"
"$0" 2>/tmp/log &
until curl --silent --fail --output /dev/null "http://127.0.0.1:$1/-/ready"; do sleep 0.1; done
curl --silent "http://127.0.0.1:$1/metrics"
kill $!
wait $!
cat /tmp/log >&2
"#;

#[test]
fn in_gvisor_it_starts_says_what_is_missing_and_serves_what_proc_gives() {
    let mut runsc = container_tool("runsc");
    runsc.args([
        "--network=none",
        "--ignore-cgroups",
        "do",
        "sh",
        "-c",
        INSIDE,
    ]);
    runsc.args([BINARY, &PORT.to_string()]);
    let output = runsc.stdin(Stdio::null()).output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    let page = Page::parse(std::str::from_utf8(&output.stdout).unwrap()).unwrap();
    let up = |source| page.labelled("listen_queue_source_up", &[("source", source)]);
    for source in ["unix_diag", "inet_diag"] {
        assert_eq!(up(source), Some(0.0), "{source}");
        let line = format!("source={source} ");
        let line = log.lines().find(|l| l.contains(&line)).unwrap();
        assert!(
            line.contains("this kernel has no sock_diag, as in gVisor"),
            "{line}"
        );
    }
    assert_eq!(up("netstat"), Some(1.0), "{log}");
    assert!(page.get("listen_queue_somaxconn") > Some(0.0));
    assert_eq!(page.listeners().len(), 0);
    assert!(page.get("listen_queue_samples_total") > Some(0.0));
}
