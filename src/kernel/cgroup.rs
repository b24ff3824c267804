//! The control group of a process, and the pod that its path identifies.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use procfs::process::Process;
use procfs::{FromBufRead as _, ProcessCGroups};

/// Bytes of a path that are kept. Processes in the container choose a part of the path.
const LONGEST: usize = 512;

/// When a process started.
///
/// # Errors
/// When it has ended.
pub fn started(process: &Path) -> io::Result<u64> {
    let stat = Process::new_with_root(process.to_owned()).and_then(|process| process.stat());
    stat.map(|stat| stat.starttime).map_err(io::Error::other)
}

/// The path of the control group of a process; empty if it cannot be determined.
#[must_use]
pub fn of(process: &Path) -> String {
    let Ok(lines) = std::fs::read(process.join("cgroup")) else {
        return String::new();
    };
    of_lines(&lines)
}

/// A container may create a group below its own whose name is not UTF-8. The path above it is still read.
fn of_lines(lines: &[u8]) -> String {
    let lines = String::from_utf8_lossy(lines);
    let groups = ProcessCGroups::from_buf_read(lines.as_bytes());
    groups.map_or(String::new(), |groups| path(&groups))
}

/// The path among the hierarchies of a process. With cgroup v1, and where v1 and v2 are mixed, container engines use those of v1, and they
/// all have the same path; with v2 there is one hierarchy.
fn path(ProcessCGroups(groups): &ProcessCGroups) -> String {
    let controlled = ["memory", "pids", "cpu", "name=systemd"]
        .into_iter()
        .find_map(|name| {
            let mut groups = groups.iter();
            groups.find(|group| group.controllers.iter().any(|c| c == name))
        });
    let unified = || groups.iter().find(|group| group.hierarchy == 0);
    let group = controlled
        .filter(|group| group.pathname != "/")
        .or_else(unified)
        .or(controlled);
    let mut path = group.map_or("", |group| group.pathname.as_str());
    // If the exporter has its own cgroup namespace, paths outside of it begin like this (`kernfs_path_from_node`, fs/kernfs/dir.c).
    while let Some(rest) = path.strip_prefix("/..") {
        path = rest;
    }
    path.get(..path.floor_char_boundary(LONGEST))
        .unwrap_or_default()
        .to_owned()
}

/// The part of a path that identifies the owner: a pod or a container. The container can create groups below it.
enum Owner<'a> {
    Pod(String),
    Container(&'a str),
}

fn owner(cgroup: &str) -> Option<Owner<'_>> {
    cgroup.split('/').find_map(|part| {
        let mut hex = part.split(|c: char| !c.is_ascii_hexdigit());
        let is_container = hex.any(|run| run.len() == 64);
        let pod = pod(part).map(Owner::Pod);
        pod.or_else(|| is_container.then_some(Owner::Container(part)))
    })
}

fn pod(part: &str) -> Option<String> {
    let name = part.strip_suffix(".slice").unwrap_or(part);
    let (before, uid) = name.rsplit_once("pod")?;
    let is_of_kubelet = before.is_empty() || before.contains("kubepods");
    let uid = uid.replace('_', "-");
    let is_hex = uid.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    let is_uid = uid.len() == 36 && uid.bytes().filter(|b| *b == b'-').count() == 4;
    // The uid of a static pod is the hash of its manifest.
    let is_hash = uid.len() == 32 && !uid.contains('-');
    (is_of_kubelet && is_hex && (is_uid || is_hash)).then_some(uid)
}

/// The uid of the pod that a control group belongs to, as in the names of `/var/log/pods`.
#[must_use]
pub fn pod_uid(cgroup: &str) -> Option<String> {
    match owner(cgroup)? {
        Owner::Pod(uid) => Some(uid),
        Owner::Container(_) => None,
    }
}

/// The unit whose network namespaces share one budget: a pod, or else a container, or else a control group.
#[must_use]
pub fn share(cgroup: &str) -> String {
    match owner(cgroup) {
        Some(Owner::Pod(uid)) => uid,
        Some(Owner::Container(part)) => part.to_owned(),
        None => cgroup.to_owned(),
    }
}

/// Namespaces and names of pods, by their uid.
pub type PodNames = BTreeMap<String, (String, String)>;

/// Namespaces and names of the pods of this node, from the directories that the kubelet creates for their logs, `NAMESPACE_POD_UID`; none of
/// the parts has an underscore.
///
/// # Errors
/// If the parent directory cannot be listed.
pub fn pod_names(pod_logs: &Path) -> io::Result<PodNames> {
    let named = |entry: std::fs::DirEntry| {
        let name = entry.file_name();
        let (name, uid) = name.to_str()?.rsplit_once('_')?;
        let (namespace, pod) = name.split_once('_')?;
        Some((uid.to_owned(), (namespace.to_owned(), pod.to_owned())))
    };
    Ok(std::fs::read_dir(pod_logs)?
        .flatten()
        .filter_map(named)
        .collect())
}

#[cfg(test)]
mod tests {

    use super::*;

    fn of_lines(lines: &str) -> String {
        super::of_lines(lines.as_bytes())
    }

    const UID: &str = "2c48913c-b29f-11e7-9350-020968147796";
    const HASH: &str = "b6b0d2a1f3a5c7d9e1f2a3b4c5d6e7f8";
    const ID: &str = "6efae1a5e2bd3e64ab1ea4e5cd6e5e9d7d7f9a2c4b6a8e0f1d3c5b7a9f8e6d4c";

    /// The lines of `/proc/PID/cgroup`, the expected path, and the pod's uid.
    #[test]
    fn the_paths_of_every_engine_driver_and_version_identify_the_pod() {
        let slice = UID.replace('-', "_");
        let table = [
            // containerd, systemd driver, v2.
            (
                format!(
                    "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{slice}.slice/cri-containerd-{ID}.scope"
                ),
                Some(UID),
            ),
            // CRI-O, systemd driver, v2, guaranteed.
            (
                format!("0::/kubepods.slice/kubepods-pod{slice}.slice/crio-{ID}.scope/container"),
                Some(UID),
            ),
            // containerd, cgroupfs driver, v2.
            (format!("0::/kubepods/besteffort/pod{UID}/{ID}"), Some(UID)),
            // Docker with cri-dockerd, cgroupfs driver, v1.
            (
                format!(
                    "12:pids:/kubepods/burstable/pod{UID}/{ID}\n5:memory:/kubepods/burstable/pod{UID}/{ID}\n1:name=systemd:/kubepods/burstable/pod{UID}/{ID}"
                ),
                Some(UID),
            ),
            // A static pod.
            (
                format!(
                    "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{HASH}.slice/cri-containerd-{ID}.scope"
                ),
                Some(HASH),
            ),
            // The kubelet in a slice of its own, as in kind.
            (
                format!(
                    "0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod{slice}.slice/cri-containerd-{ID}.scope"
                ),
                Some(UID),
            ),
            // Docker, v2, systemd driver.
            (format!("0::/system.slice/docker-{ID}.scope"), None),
            // Docker, v1, cgroupfs driver.
            (
                format!("4:memory:/docker/{ID}\n1:name=systemd:/docker/{ID}"),
                None,
            ),
            // Podman, root, systemd driver.
            (
                format!("0::/machine.slice/libpod-{ID}.scope/container"),
                None,
            ),
            // A podman pod: its id is no uid.
            (
                format!("0::/machine.slice/machine-libpod_pod_{ID}.slice/libpod-{ID}.scope"),
                None,
            ),
            // Podman without root.
            (
                format!(
                    "0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope/container"
                ),
                None,
            ),
            // A service of the host.
            ("0::/system.slice/nginx.service".to_owned(), None),
        ];
        for (lines, uid) in table {
            let cgroup = of_lines(&lines);
            let first = lines.lines().next().unwrap();
            assert_eq!(cgroup, first.splitn(3, ':').nth(2).unwrap());
            assert_eq!(pod_uid(&cgroup).as_deref(), uid, "{cgroup}");
        }
    }

    #[test]
    fn of_mixed_hierarchies_the_one_that_engines_use_is_returned() {
        let hybrid = "9:memory:/docker/a\n1:name=systemd:/docker/a\n0::/";
        assert_eq!(of_lines(hybrid), "/docker/a");
        let unused = "9:memory:/\n1:name=systemd:/\n0::/system.slice/a.service";
        assert_eq!(of_lines(unused), "/system.slice/a.service");
        assert_eq!(of_lines("3:cpuset:/a\n0::/b"), "/b");
        assert_eq!(of_lines("1:name=systemd:/"), "/");
        assert_eq!(of_lines(""), "");
    }

    #[test]
    fn a_path_outside_of_the_own_cgroup_namespace_begins_where_it_differs() {
        assert_eq!(of_lines("0::/../../pod1/a"), "/pod1/a");
        assert_eq!(of_lines("0::/"), "/");
    }

    #[test]
    fn what_a_container_makes_further_in_does_not_count() {
        let (other, inner) = (UID.replace('2', "3"), ID.replace('6', "7"));
        let nested = format!("/kubepods/burstable/pod{UID}/{ID}/kubepods/pod{other}/{inner}");
        assert_eq!(pod_uid(&nested).as_deref(), Some(UID));
        assert_eq!(share(&nested), UID);
        assert_eq!(share(&format!("/docker/{ID}/docker/{inner}")), ID);
        assert_eq!(share("/system.slice/a.service"), "/system.slice/a.service");
        assert_eq!(pod_uid(&format!("/docker/{ID}/kubepods/pod{UID}")), None);
        assert_eq!(share(&format!("/docker/{ID}/kubepods/pod{UID}")), ID);
        assert_eq!(pod_uid("/kubepods/podx/pod_/tripod"), None);
        let hostile = [
            format!("0::/kubepods/burstable/pod{UID}/{ID}/").as_bytes(),
            b"\xff\n",
        ]
        .concat();
        assert_eq!(pod_uid(&super::of_lines(&hostile)).as_deref(), Some(UID));
        let long = format!("0::/{}é", "x".repeat(LONGEST - 2));
        assert_eq!(of_lines(&long).len(), LONGEST - 1);
    }
    #[test]
    fn a_pod_is_named_by_the_directory_of_its_logs() {
        let logs = tempfile::tempdir().unwrap();
        for name in [
            format!("shop_web-1_{UID}"),
            format!("kube-system_etcd_{HASH}"),
            "x".to_owned(),
        ] {
            std::fs::create_dir(logs.path().join(name)).unwrap();
        }
        let names = pod_names(logs.path()).unwrap();
        let name = |uid: &str| names.get(uid).cloned();
        assert_eq!(name(UID), Some(("shop".to_owned(), "web-1".to_owned())));
        assert_eq!(
            name(HASH),
            Some(("kube-system".to_owned(), "etcd".to_owned()))
        );
        assert_eq!(name(&UID.replace('2', "3")), None);
        assert!(pod_names(&logs.path().join("none")).is_err());
    }
}
