//! The home: one process at a time, one mesh, files that survive versions and crashes.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use polymath_node::{Home, Membership, MeshKey};
use polymath_types::{Access, ErrorKind, Genesis, Keypair, MeshSecret};

fn membership() -> Membership {
    let key = Keypair::ed25519_from_bytes([7; 32]).unwrap();
    Membership {
        genesis: Genesis::new("home", &key.public()).unwrap(),
        joined: true,
        bootstrap: vec!["/ip4/127.0.0.1/tcp/4040".into()],
        port: 4040,
        key: MeshKey::None,
    }
}

#[test]
fn the_membership_file_of_version_1_is_read_and_another_version_refused() {
    let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/mesh_v1.json");
    let dir = tempfile::tempdir().unwrap();
    let home = Home::open(dir.path()).unwrap();
    home.save_membership(&membership()).unwrap();
    let file = dir.path().join("mesh.json");
    if std::env::var_os("POLYMATH_WRITE_GOLDEN").is_some() {
        fs::copy(&file, &golden).unwrap();
    }
    assert_eq!(fs::read(&file).unwrap(), fs::read(&golden).unwrap());
    assert_eq!(home.membership().unwrap(), Some(membership()));
    let newer =
        fs::read_to_string(&golden)
            .unwrap()
            .replacen("\"version\": 1", "\"version\": 2", 1);
    fs::write(&file, newer).unwrap();
    let error = home.membership().unwrap_err();
    assert_eq!(error.kind, ErrorKind::VersionMismatch);
    assert!(
        error.message.contains("version 2") && error.message.contains("version 1"),
        "{error}"
    );
    fs::write(&file, "{").unwrap();
    assert_eq!(home.membership().unwrap_err().kind, ErrorKind::DataLoss);
}

#[test]
fn a_closed_mesh_needs_its_secret_and_nobody_else_may_read_it() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::open(dir.path()).unwrap();
    let file = dir.path().join("mesh.json");
    let key = Keypair::ed25519_from_bytes([7; 32]).unwrap();
    let closed = Membership {
        genesis: Genesis::found("home", &key.public(), Access::Closed).unwrap(),
        key: MeshKey::Secret(MeshSecret::from_bytes([5; 32])),
        ..membership()
    };
    home.save_membership(&closed).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&file), 0o600);
    assert_eq!(home.membership().unwrap(), Some(closed.clone()));
    assert!(!format!("{closed:?}").contains("0505"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(home.membership().unwrap_err().kind, ErrorKind::Config);
    for wrong in [
        Membership {
            key: MeshKey::None,
            ..closed.clone()
        },
        Membership {
            genesis: membership().genesis,
            ..closed
        },
    ] {
        home.save_membership(&wrong).unwrap();
        assert_eq!(home.membership().unwrap_err().kind, ErrorKind::DataLoss);
    }
    home.forget_membership(&home.lock().unwrap()).unwrap();
    assert_eq!(home.membership().unwrap(), None);
}

#[test]
fn a_home_is_locked_by_one_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::open(dir.path()).unwrap();
    let lock = home.lock().unwrap();
    let refused = home.lock().unwrap_err();
    assert_eq!(refused.kind, ErrorKind::FailedPrecondition);
    assert!(
        refused.message.contains(&std::process::id().to_string()),
        "{refused}"
    );
    let first = home.identity(&lock).unwrap().peer_id();
    drop(lock);
    let again = home.lock().unwrap();
    assert_eq!(home.identity(&again).unwrap().peer_id(), first);
}

#[test]
fn a_long_path_still_gets_a_socket() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::open(dir.path().join("x".repeat(120))).unwrap();
    let socket = home.control_socket().unwrap();
    assert!(socket.as_os_str().len() < 108);
    let other = Home::open(dir.path().join("y".repeat(120))).unwrap();
    assert_ne!(socket, other.control_socket().unwrap());
    // Nobody else can have put a socket there.
    let folder = fs::metadata(socket.parent().unwrap()).unwrap();
    assert_eq!(folder.permissions().mode() & 0o077, 0);
}

#[test]
fn a_socket_elsewhere_is_found_by_the_link_in_the_home_if_its_folder_is_private() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::open(dir.path().join("x".repeat(120))).unwrap();
    let folder = dir.path().join("run");
    fs::create_dir(&folder).unwrap();
    let socket = folder.join("polymath.sock");
    std::os::unix::fs::symlink(&socket, home.dir().join("control.sock")).unwrap();
    let mode = |mode| fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
    mode(0o700);
    assert_eq!(home.control_socket().unwrap(), socket);
    mode(0o755);
    assert_ne!(home.control_socket().unwrap(), socket);
    fs::remove_dir(&folder).unwrap();
    assert_ne!(home.control_socket().unwrap(), socket);
}

#[test]
fn a_new_home_is_private_and_one_that_was_there_keeps_its_mode() {
    let dir = tempfile::tempdir().unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let new = dir.path().join("new");
    Home::open(&new).unwrap();
    assert_eq!(mode(&new), 0o700);
    let deep = dir.path().join("a/b/c");
    Home::open(&deep).unwrap();
    for made in [&deep, &dir.path().join("a/b"), &dir.path().join("a")] {
        assert_eq!(mode(made), 0o700);
    }
    let old = dir.path().join("old");
    fs::create_dir(&old).unwrap();
    fs::set_permissions(&old, fs::Permissions::from_mode(0o755)).unwrap();
    Home::open(&old).unwrap();
    assert_eq!(mode(&old), 0o755);
}
