// SPDX-License-Identifier: GPL-2.0-only
//! The backend against a model of the module's directories that writes down
//! every operation with its bytes: order and bytes are the interface.

use std::collections::BTreeSet;

use super::*;

/// A model of configfs and sysfs: directories exist when made, attributes exist
/// in their directories, a directory with children made by hand stays.
#[derive(Default)]
struct FakeFiles {
    directories: Mutex<BTreeSet<PathBuf>>,
    journal: Mutex<Vec<String>>,
}

impl FakeFiles {
    fn new(lockspaces: &[&str]) -> Self {
        let files = Self::default();
        for lockspace in lockspaces {
            files.add(&Path::new(SYSFS).join(lockspace));
        }
        files
    }

    fn add(&self, path: &Path) {
        self.directories.lock().unwrap().insert(path.to_owned());
    }

    fn note(&self, line: String) {
        let line = line.replace(CONFIGFS, "C").replace(SYSFS, "S");
        self.journal.lock().unwrap().push(line);
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.journal.lock().unwrap())
    }

    /// Groups that the module makes itself: `comms`, `spaces`, `nodes`.
    fn is_default(path: &Path) -> bool {
        path.file_name()
            .is_some_and(|name| name == "comms" || name == "spaces" || name == "nodes")
    }

    fn exists(&self, path: &Path) -> bool {
        let path = if Self::is_default(path) {
            path.parent().unwrap()
        } else {
            path
        };
        path == Path::new(CONFIGFS) || self.directories.lock().unwrap().contains(path)
    }

    fn children(&self, path: &Path) -> Vec<String> {
        let all = self.directories.lock().unwrap();
        let of = all.iter().filter(|child| child.parent() == Some(path));
        of.map(|child| child.file_name().unwrap().to_str().unwrap().to_owned())
            .collect()
    }
}

impl Files for FakeFiles {
    fn directories(&self, path: &Path) -> io::Result<Vec<String>> {
        Ok(self.children(path))
    }

    fn make_directory(&self, path: &Path) -> io::Result<()> {
        if !self.exists(path.parent().unwrap()) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if self.exists(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.add(path);
        self.note(format!("mkdir {}", path.display()));
        Ok(())
    }

    fn remove_directory(&self, path: &Path) -> io::Result<()> {
        if !self.exists(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        for group in ["", "comms", "spaces", "nodes"] {
            if !self.children(&path.join(group)).is_empty() {
                return Err(io::ErrorKind::DirectoryNotEmpty.into());
            }
        }
        self.directories.lock().unwrap().remove(path);
        self.note(format!("rmdir {}", path.display()));
        Ok(())
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        if !self.exists(path.parent().unwrap()) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let shown = if bytes.len() == ADDRESS_LENGTH {
            let zeroes = bytes[24..].iter().all(|byte| *byte == 0);
            format!("{:?} and zeroes: {zeroes}", &bytes[..24])
        } else {
            format!("{:?}", std::str::from_utf8(bytes).unwrap())
        };
        self.note(format!("write {} {shown}", path.display()));
        Ok(())
    }

    fn open_device(&self, name: &str) -> Result<File, KernelError> {
        self.note(format!("open {name}"));
        Ok(File::open("/dev/null").unwrap())
    }
}

fn backend(files: FakeFiles) -> Configfs<FakeFiles> {
    let addresses = [(1, "192.0.2.1"), (2, "192.0.2.2"), (3, "2001:db8::3")];
    let identity = Identity {
        cluster: "alpha".into(),
        node: 1,
        addresses: addresses
            .iter()
            .map(|(n, a)| (*n, a.parse().unwrap()))
            .collect(),
        log_debug: false,
    };
    Configfs::new(files, identity)
}

fn begun(lockspaces: &[&str]) -> Configfs<FakeFiles> {
    let backend = backend(FakeFiles::new(lockspaces));
    backend.begin().unwrap();
    backend.files.take();
    backend
}

fn start(members: &[u32], released: &[u32], renewed: &[u32]) -> Start {
    let nodes = |list: &[u32]| list.iter().map(|node| NodeId(*node)).collect::<Vec<_>>();
    Start {
        lockspace: "web".into(),
        id: 0x5a81_c2f3,
        change: 1,
        members: nodes(members),
        failed: nodes(released),
        released: nodes(released),
        renewed: nodes(renewed),
    }
}

#[test]
fn it_begins_by_wiping_and_opens_the_monitor_last() {
    let files = FakeFiles::default();
    for left in [
        "cluster",
        "cluster/comms/7",
        "cluster/spaces/old",
        "cluster/spaces/old/nodes/7",
    ] {
        files.add(&Path::new(CONFIGFS).join(left));
    }
    let backend = backend(files);
    backend.begin().unwrap();
    let expected = [
        "rmdir C/cluster/comms/7",
        "rmdir C/cluster/spaces/old/nodes/7",
        "rmdir C/cluster/spaces/old",
        "rmdir C/cluster",
        "mkdir C/cluster",
        r#"write C/cluster/log_debug "0""#,
        r#"write C/cluster/recover_callbacks "1""#,
        r#"write C/cluster/cluster_name "alpha""#,
        "open dlm-monitor",
    ];
    assert_eq!(backend.files.take(), expected);
    assert!(backend.told().monitor.is_some(), "held open");
}

#[test]
fn members_get_entries_this_node_first_with_whole_addresses() {
    let backend = begun(&[]);
    backend
        .set_members(&Members::from([(1, 10), (2, 20), (3, 30)]))
        .unwrap();
    let v4 = "2, 0, 0, 0, 192, 0, 2";
    let expected = [
        "mkdir C/cluster/comms/1".to_owned(),
        r#"write C/cluster/comms/1/nodeid "1""#.to_owned(),
        format!(
            "write C/cluster/comms/1/addr [{v4}, 1{}] and zeroes: true",
            ", 0".repeat(16)
        ),
        r#"write C/cluster/comms/1/local "1""#.to_owned(),
        "mkdir C/cluster/comms/2".to_owned(),
        r#"write C/cluster/comms/2/nodeid "2""#.to_owned(),
        format!(
            "write C/cluster/comms/2/addr [{v4}, 2{}] and zeroes: true",
            ", 0".repeat(16)
        ),
        "mkdir C/cluster/comms/3".to_owned(),
        r#"write C/cluster/comms/3/nodeid "3""#.to_owned(),
        "write C/cluster/comms/3/addr [10, 0, 0, 0, 0, 0, 0, 0, 32, 1, 13, 184, 0, 0, 0, 0, \
         0, 0, 0, 0, 0, 0, 0, 3] and zeroes: true"
            .to_owned(),
    ];
    assert_eq!(backend.files.take(), expected);
    backend
        .set_members(&Members::from([(1, 10), (2, 20), (3, 30)]))
        .unwrap();
    assert!(
        backend.files.take().is_empty(),
        "nothing new, nothing written"
    );
}

#[test]
fn a_node_that_is_down_or_another_life_loses_its_entry() {
    let backend = begun(&[]);
    backend
        .set_members(&Members::from([(1, 10), (2, 20), (3, 30)]))
        .unwrap();
    backend.files.take();
    backend
        .set_members(&Members::from([(1, 10), (3, 31)]))
        .unwrap();
    let journal = backend.files.take();
    let expected = [
        "rmdir C/cluster/comms/2",
        "rmdir C/cluster/comms/3",
        "mkdir C/cluster/comms/3",
    ];
    assert_eq!(journal[..3], expected);
    backend.set_members(&Members::from([(3, 31)])).unwrap();
    assert!(backend.files.take().is_empty(), "the own entry stays");
    let unknown = backend.set_members(&Members::from([(9, 1)]));
    assert!(matches!(unknown, Err(KernelError::UnknownNode(9))));
}

#[test]
fn a_join_writes_the_id_the_members_and_starts_before_the_answer() {
    let backend = begun(&["web"]);
    backend.start(&start(&[1, 2], &[], &[])).unwrap();
    assert_eq!(backend.answer("web", 0).unwrap(), Answered::Taken);
    let expected = [
        "mkdir C/cluster/spaces/web",
        r#"write S/web/id "1518453491""#,
        "mkdir C/cluster/spaces/web/nodes/1",
        r#"write C/cluster/spaces/web/nodes/1/nodeid "1""#,
        r#"write C/cluster/spaces/web/nodes/1/weight "1""#,
        "mkdir C/cluster/spaces/web/nodes/2",
        r#"write C/cluster/spaces/web/nodes/2/nodeid "2""#,
        r#"write C/cluster/spaces/web/nodes/2/weight "1""#,
        r#"write S/web/control "1""#,
        r#"write S/web/event_done "0""#,
    ];
    assert_eq!(backend.files.take(), expected);
}

#[test]
fn a_change_removes_who_departed_renews_who_is_back_and_adds_who_joined() {
    let backend = begun(&["web"]);
    backend.start(&start(&[1, 2, 3], &[], &[])).unwrap();
    backend.files.take();
    backend.stop("web").unwrap();
    backend.start(&start(&[1, 3, 4], &[2], &[3])).unwrap();
    let expected = [
        r#"write S/web/control "0""#,
        r#"write C/cluster/spaces/web/nodes/2/release_recover "1""#,
        "rmdir C/cluster/spaces/web/nodes/2",
        "rmdir C/cluster/spaces/web/nodes/3",
        "mkdir C/cluster/spaces/web/nodes/3",
        r#"write C/cluster/spaces/web/nodes/3/nodeid "3""#,
        r#"write C/cluster/spaces/web/nodes/3/weight "1""#,
        "mkdir C/cluster/spaces/web/nodes/4",
        r#"write C/cluster/spaces/web/nodes/4/nodeid "4""#,
        r#"write C/cluster/spaces/web/nodes/4/weight "1""#,
        r#"write S/web/control "1""#,
    ];
    assert_eq!(backend.files.take(), expected);
}

#[test]
fn a_leave_stops_cleans_up_and_answers() {
    let backend = begun(&["web"]);
    backend.start(&start(&[1, 2], &[], &[])).unwrap();
    backend.files.take();
    backend.stop("web").unwrap();
    backend.forget("web").unwrap();
    backend.answer("web", 0).unwrap();
    let expected = [
        r#"write S/web/control "0""#,
        "rmdir C/cluster/spaces/web/nodes/1",
        "rmdir C/cluster/spaces/web/nodes/2",
        "rmdir C/cluster/spaces/web",
        r#"write S/web/event_done "0""#,
    ];
    assert_eq!(backend.files.take(), expected);
    backend.start(&start(&[1], &[], &[])).unwrap();
    assert!(
        backend
            .files
            .take()
            .contains(&r#"write S/web/id "1518453491""#.to_owned())
    );
}

#[test]
fn a_lockspace_that_is_gone_counts_as_stopped_and_takes_no_answer() {
    let backend = begun(&[]);
    backend.stop("web").unwrap();
    assert_eq!(backend.answer("web", 0).unwrap(), Answered::NobodyWaits);
    let error = backend.start(&start(&[1], &[], &[])).unwrap_err();
    assert_eq!(
        error.result(),
        -(nix::errno::Errno::EIO as i32),
        "no errno in the model"
    );
    assert!(
        error.to_string().contains("/sys/kernel/dlm/web/id"),
        "{error}"
    );
}

#[test]
fn it_ends_without_leaving_anything() {
    let backend = begun(&[]);
    backend
        .set_members(&Members::from([(1, 10), (2, 20)]))
        .unwrap();
    backend.files.take();
    backend.end().unwrap();
    let expected = [
        "rmdir C/cluster/comms/1",
        "rmdir C/cluster/comms/2",
        "rmdir C/cluster",
    ];
    assert_eq!(backend.files.take(), expected);
    assert!(backend.told().monitor.is_none());
}

#[test]
fn lockspaces_in_the_kernel_are_found() {
    let backend = backend(FakeFiles::new(&["a", "b"]));
    let names: Vec<_> = backend
        .lockspaces()
        .unwrap()
        .into_iter()
        .map(|f| f.name)
        .collect();
    assert_eq!(names, ["a", "b"]);
}
