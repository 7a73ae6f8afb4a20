// SPDX-License-Identifier: Apache-2.0
//! The number of CPUs that this process may use, by its affinity mask and the limit of its cgroup (v1 and v2).

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use std::fs;
use std::path::{Path, PathBuf};

/// Mount points of a v2 hierarchy.
const V2_MOUNTS: [&str; 2] = ["sys/fs/cgroup", "sys/fs/cgroup/unified"];
const V1_MOUNTS: [&str; 2] = ["sys/fs/cgroup/cpu", "sys/fs/cgroup/cpu,cpuacct"];

/// Returns the number of worker threads for this process: its CPU limit rounded up, so that one and a half cores can be
/// used; one thread for one core or less.
pub(crate) fn cores() -> usize {
    let allowed = affinity().unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    workers(allowed, cpu_limit(Path::new("/")))
}

fn workers(allowed: usize, limit: Option<f64>) -> usize {
    // A limit is a small positive number.
    let limit = limit.map_or(usize::MAX, |cpus| cpus.ceil() as usize);
    allowed.min(limit).max(1)
}

fn affinity() -> Option<usize> {
    let set = sched_getaffinity(Pid::from_raw(0)).ok()?;
    let count = (0..CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false)).count();
    (count > 0).then_some(count)
}

/// Returns the smallest limit of this process's cgroup and those above it, in CPUs. `root` is `/`.
fn cpu_limit(root: &Path) -> Option<f64> {
    let own = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let limits = own.lines().flat_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (controllers, path) = (parts.nth(1).unwrap_or_default(), parts.next().unwrap_or_default());
        let (mounts, read): (_, fn(&Path) -> Option<f64>) = match controllers {
            "" => (V2_MOUNTS, v2_limit),
            list if list.split(',').any(|controller| controller == "cpu") => (V1_MOUNTS, v1_limit),
            _ => return Vec::new(),
        };
        let folders = mounts.iter().flat_map(|mount| upwards(&root.join(mount), path));
        folders.filter_map(|folder| read(&folder)).collect()
    });
    limits.min_by(f64::total_cmp)
}

/// Returns the cgroup's folder and all above it, up to the mount. In a container without a cgroup namespace the path is the
/// host's and does not exist, while the mount itself is the container's cgroup.
fn upwards(mount: &Path, path: &str) -> Vec<PathBuf> {
    let path = Path::new(path.trim_start_matches('/'));
    if path.components().any(|part| part == std::path::Component::ParentDir) {
        return vec![mount.to_owned()];
    }
    path.ancestors().map(|part| mount.join(part)).collect()
}

/// Reads `cpu.max`: quota and period, or `max`.
fn v2_limit(folder: &Path) -> Option<f64> {
    let text = fs::read_to_string(folder.join("cpu.max")).ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    ratio(quota, period)
}

/// Reads the two files of v1; a quota of -1 is no limit.
fn v1_limit(folder: &Path) -> Option<f64> {
    let read = |name| fs::read_to_string(folder.join(name)).ok();
    ratio(read("cpu.cfs_quota_us")?.trim(), read("cpu.cfs_period_us")?.trim())
}

fn ratio(quota: &str, period: &str) -> Option<f64> {
    let (quota, period): (u32, u32) = (quota.parse().ok()?, period.parse().ok()?);
    (quota > 0 && period > 0).then(|| f64::from(quota) / f64::from(period))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn limits_of_both_versions_are_found() {
        let own = "proc/self/cgroup";
        for (name, files, limit) in [
            ("nothing", vec![], None),
            (
                "v2 in a namespace",
                vec![(own, "0::/\n"), ("sys/fs/cgroup/cpu.max", "150000 100000\n")],
                Some(1.5),
            ),
            ("v2 without limit", vec![(own, "0::/\n"), ("sys/fs/cgroup/cpu.max", "max 100000\n")], None),
            (
                "v2, the pod's limit is less than the container's",
                vec![
                    (own, "0::/kubepods/pod1/ctr\n"),
                    ("sys/fs/cgroup/kubepods/pod1/cpu.max", "100000 100000\n"),
                    ("sys/fs/cgroup/kubepods/pod1/ctr/cpu.max", "400000 100000\n"),
                ],
                Some(1.0),
            ),
            (
                "v2, the host's path and the container's mount",
                vec![(own, "0::/kubepods/pod1/ctr\n"), ("sys/fs/cgroup/cpu.max", "50000 100000\n")],
                Some(0.5),
            ),
            (
                "v2, beside us",
                vec![(own, "0::/../x\n"), ("sys/fs/cgroup/cpu.max", "200000 100000")],
                Some(2.0),
            ),
            (
                "v1",
                vec![
                    (own, "4:memory:/docker/1\n3:cpu,cpuacct:/docker/1\n"),
                    ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "250000\n"),
                    ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
                ],
                Some(2.5),
            ),
            (
                "v1 without limit",
                vec![
                    (own, "3:cpu,cpuacct:/\n"),
                    ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"),
                    ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
                ],
                None,
            ),
            ("v1, another controller", vec![(own, "3:cpuset:/\n")], None),
            ("nonsense", vec![(own, "0::/\n::\n"), ("sys/fs/cgroup/cpu.max", "lots\n")], None),
        ] {
            assert_eq!(cpu_limit(machine(&files).path()), limit, "{name}");
        }
    }

    #[test]
    fn a_limit_is_rounded_up_and_one_core_or_less_is_one_thread() {
        for (allowed, limit, threads) in [
            (8, None, 8),
            (8, Some(0.1), 1),
            (8, Some(1.0), 1),
            (8, Some(1.5), 2),
            (2, Some(4.0), 2),
            (0, None, 1),
        ] {
            assert_eq!(workers(allowed, limit), threads, "{allowed} {limit:?}");
        }
    }

    #[test]
    fn this_machine_has_a_core() {
        assert!(cores() >= 1);
    }
}
