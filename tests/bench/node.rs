//! One exporter for many network namespaces, beside a sidecar in each of them and a bare C loop that looks the same sockets up.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use super::common::exporter::{BINARY, Exporter};
use super::common::namespace::Namespace;
use super::common::pods::{Machine, first_child};
use super::common::program::{self, Process};
use super::common::wait;
use super::cpu::{self, median};
use super::report::Report;

const INTERVAL_MS: u32 = 50;
const PORTS: [u16; 2] = [8000, 8001];
/// Namespaces in the comparison.
const PODS: usize = 100;
/// And in what shows how the cost grows.
const GROWTH: [usize; 3] = [1, 20, 400];
const WINDOWS: usize = 5;
const WINDOW: Duration = Duration::from_secs(5);
/// How the cost of one compares with that of many: 0.4 where the lookups alone, in C, have 0.31. How much of a lookup is the kernel's differs.
const CPU_BAR: f64 = 0.4 / 0.31;
const MEMORY_BAR: f64 = 1.0 / 15.0;
const C_BAR: f64 = 1.5;

/// What a group of processes takes.
#[derive(Debug, Clone, Copy)]
struct Cost {
    share: f64,
    /// Of that, the thread that finds the namespaces.
    discovery: f64,
    memory_mb: f64,
    wake_ups: f64,
}

pub(crate) fn measure(report: &mut Report) {
    let program = cpu::compile();
    report.section(&format!(
        "{PODS} network namespaces, one unix and two TCP listeners each, a round each {INTERVAL_MS} ms (median of {WINDOWS} windows of {} s, in turn)",
        WINDOW.as_secs()
    ));
    report.row(&[
        "program",
        "CPU %",
        "discovery %",
        "us a namespace and round",
        "memory MB",
        "wake-ups/s",
    ]);
    let run = || {
        let _namespace = Namespace::enter();
        compare(&program)
    };
    let costs = std::thread::scope(|scope| scope.spawn(run).join()).expect("no panic");
    let names = [
        "one C process",
        "one C process a namespace",
        "one exporter, --node",
        "one exporter a namespace",
    ];
    for (name, cost) in names.into_iter().zip(costs) {
        row(report, name, PODS, cost);
    }
    let [bare, bare_each, one, sidecars] = costs;
    let (ratio, lookups) = (one.share / sidecars.share, bare.share / bare_each.share);
    report.bar(
        &format!("CPU of --node by that of a sidecar a namespace: at most {CPU_BAR:.2} of the same ratio in C"),
        ratio / lookups <= CPU_BAR,
        &format!("{ratio:.2} by {lookups:.2}: {:.2}", ratio / lookups),
    );
    let mut bar = |promise: &str, bar: f64, ratio: f64| {
        report.bar(
            &format!("{promise}: at most {bar:.2}"),
            ratio <= bar,
            &format!("{ratio:.2}"),
        );
    };
    bar(
        "memory of --node by that of a sidecar a namespace",
        MEMORY_BAR,
        one.memory_mb / sidecars.memory_mb,
    );
    bar(
        "CPU of --node by that of one C process",
        C_BAR,
        one.share / bare.share,
    );

    report.section("One exporter with --node for so many network namespaces");
    report.row(&[
        "namespaces",
        "CPU %",
        "discovery %",
        "us a namespace and round",
        "memory MB",
        "wake-ups/s",
    ]);
    for pods in GROWTH {
        let run = || {
            let _namespace = Namespace::enter();
            let mut machine = Machine::start();
            make(&mut machine, pods);
            let exporter = node(&machine, pods);
            let id = first_child(exporter.id()).parse().expect("an id");
            cost(&[id])
        };
        let cost = std::thread::scope(|scope| scope.spawn(run).join()).expect("no panic");
        row(report, &pods.to_string(), pods, cost);
    }
}

fn row(report: &mut Report, name: &str, pods: usize, cost: Cost) {
    let pods = f64::from(u32::try_from(pods).expect("a few hundred"));
    let rounds = 1000.0 / f64::from(INTERVAL_MS);
    report.row(&[
        name,
        &format!("{:.2}", cost.share * 100.0),
        &format!("{:.2}", cost.discovery * 100.0),
        &format!("{:.1}", cost.share / pods / rounds * 1e6),
        &format!("{:.1}", cost.memory_mb),
        &format!("{:.0}", cost.wake_ups),
    ]);
    report.figure(&format!("cpu share, namespaces, {name}"), cost.share);
    report.figure(&format!("memory MB, namespaces, {name}"), cost.memory_mb);
}

/// Makes the pods, and returns the process and the inode of the unix listener of each.
fn make(machine: &mut Machine, pods: usize) -> Vec<(String, String)> {
    let tcp = PORTS.map(|port| json!([port, 128, 0]));
    let mut pod = |number| {
        // Of a control group each, as pods are: what one takes is bounded.
        let cgroup = format!("kubepods/bench/pod-{number}/{number:0>64}");
        let order =
            json!({"pod": number, "cgroup": cgroup, "unix": [["@app", 128, 0]], "tcp": tcp});
        let made = machine.order(&order);
        (made["pid"].to_string(), made["inodes"][0].to_string())
    };
    (0..pods).map(|number| pod(number.to_string())).collect()
}

fn node(machine: &Machine, pods: usize) -> Exporter {
    let interval = format!("{INTERVAL_MS}ms");
    let exporter = Exporter::spawn(machine.exporter(&["--node", "--sample.interval", &interval]));
    wait::until_true("all namespaces", || {
        let page = exporter.scrape();
        let series = page.series.keys();
        // And the one of the machine's first process.
        series
            .filter(|(name, _)| name == "listen_queue_namespace_info")
            .count()
            == pods + 1
    });
    exporter
}

/// The C loop, one for all and one for each, and the exporter, the same.
fn compare(program: &Path) -> [Cost; 4] {
    let mut machine = Machine::start();
    let pods = make(&mut machine, PODS);
    let interval = (INTERVAL_MS * 1000).to_string();
    let ports = PORTS.map(|port| port.to_string()).join(",");
    let bare = |pods: &[(String, String)]| -> Process {
        let mut arguments = vec![program.to_str().expect("ASCII"), &interval];
        let namespaces = pods
            .iter()
            .map(|(process, _)| format!("/proc/{process}/ns/net"));
        let namespaces: Vec<_> = namespaces.collect();
        for ((_, inode), namespace) in pods.iter().zip(&namespaces) {
            arguments.extend([namespace.as_str(), inode, &ports]);
        }
        Process::start(&mut machine.enter(&arguments))
    };
    let bare_each: Vec<Process> = pods.chunks(1).map(bare).collect();
    let bare = bare(&pods);
    let nsenter = program::command("nsenter");
    let nsenter = nsenter.get_program().to_str().expect("ASCII");
    let sidecar = |process: &String| -> Process {
        let net = format!("--net=/proc/{process}/ns/net");
        let interval = format!("{INTERVAL_MS}ms");
        let mut command: Command =
            machine.enter(&[nsenter, &net, BINARY, "--sample.interval", &interval]);
        command.stderr(std::process::Stdio::null());
        Process::start(&mut command)
    };
    let sidecars: Vec<Process> = pods.iter().map(|(process, _)| sidecar(process)).collect();
    let node = node(&machine, PODS);
    let id = |process: u32| first_child(process).parse().expect("an id");
    let ids = |processes: &[Process]| processes.iter().map(|process| id(process.id())).collect();
    let groups: [Vec<u32>; 4] = [
        vec![id(bare.id())],
        ids(&bare_each),
        vec![id(node.id())],
        ids(&sidecars),
    ];
    let signal = |group: &[u32], signal| {
        for id in group {
            let id = rustix::process::Pid::from_raw(i32::try_from(*id).expect("an id"));
            rustix::process::kill_process(id.expect("an id"), signal).expect("it is there");
        }
    };
    let mut costs = [const { Vec::new() }; 4];
    for group in &groups {
        signal(group, rustix::process::Signal::STOP);
    }
    for _ in 0..WINDOWS {
        for (group, costs) in groups.iter().zip(&mut costs) {
            signal(group, rustix::process::Signal::CONT);
            std::thread::sleep(Duration::from_secs(1));
            costs.push(cost(group));
            signal(group, rustix::process::Signal::STOP);
        }
    }
    for group in &groups {
        signal(group, rustix::process::Signal::CONT);
        signal(group, rustix::process::Signal::TERM);
    }
    // Whoever entered the namespaces for them has stopped with them, and ends with them once it goes on.
    let outside: Vec<u32> = sidecars
        .iter()
        .chain(&bare_each)
        .map(Process::id)
        .chain([bare.id(), node.id()])
        .collect();
    signal(&outside, rustix::process::Signal::CONT);
    costs.map(|costs| {
        let of = |figure: fn(&Cost) -> f64| median(costs.iter().map(figure).collect());
        Cost {
            share: of(|cost| cost.share),
            discovery: of(|cost| cost.discovery),
            memory_mb: of(|cost| cost.memory_mb),
            wake_ups: of(|cost| cost.wake_ups),
        }
    })
}

/// What processes take in a window.
fn cost(group: &[u32]) -> Cost {
    let cpu = || group.iter().map(|id| cpu::cpu_time(*id)).sum::<Duration>();
    let discovery = || {
        group
            .iter()
            .map(|id| thread_time(*id, "namespaces"))
            .sum::<Duration>()
    };
    let discovered = discovery();
    let wakes = || group.iter().map(|id| wake_ups(*id)).sum::<u32>();
    let kilobytes = |id: &u32| field(&format!("/proc/{id}/status"), "VmRSS:");
    let (start, before, woken) = (Instant::now(), cpu(), wakes());
    std::thread::sleep(WINDOW);
    let elapsed = start.elapsed().as_secs_f64();
    Cost {
        discovery: discovery().saturating_sub(discovered).as_secs_f64() / elapsed,
        share: cpu().saturating_sub(before).as_secs_f64() / elapsed,
        memory_mb: f64::from(group.iter().map(kilobytes).sum::<u32>()) / 1024.0,
        wake_ups: f64::from(wakes() - woken) / elapsed,
    }
}

/// What the threads of this name have run so far.
fn thread_time(id: u32, name: &str) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{id}/task")).expect("the process");
    let time = |task: std::io::Result<std::fs::DirEntry>| {
        let task = task.expect("a task").path();
        let comm = std::fs::read_to_string(task.join("comm")).expect("comm");
        let text = std::fs::read_to_string(task.join("schedstat")).expect("schedstat");
        let first = text.split(' ').next().and_then(|field| field.parse().ok());
        let is_it = comm.trim_end() == name;
        is_it.then(|| Duration::from_nanos(first.expect("a number")))
    };
    tasks.filter_map(time).sum()
}

/// How often the threads of a process went to sleep so far.
fn wake_ups(id: u32) -> u32 {
    let tasks = std::fs::read_dir(format!("/proc/{id}/task")).expect("the process");
    let of = |task: std::io::Result<std::fs::DirEntry>| {
        let status = task.expect("a task").path().join("status");
        field(status.to_str().expect("ASCII"), "voluntary_ctxt_switches:")
    };
    tasks.map(of).sum()
}

fn field(path: &str, name: &str) -> u32 {
    let text = std::fs::read_to_string(path).expect("the file");
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next());
    number
        .and_then(|number| number.parse().ok())
        .expect("a number")
}
