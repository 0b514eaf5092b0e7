//! A folder outside the home where no other user can have put anything.

use std::{
    fs::{self, DirBuilder},
    io::ErrorKind as IoKind,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use polymath_types::{ErrorKind, Failure};

use super::io_failure;

/// `runtime` if it is this user's alone, else a folder in `temporary`, created if need be.
pub(super) fn choose(runtime: Option<&Path>, temporary: &Path) -> Result<PathBuf, Failure> {
    if let Some(runtime) = runtime
        && runtime.is_absolute()
        && check(runtime).is_ok()
    {
        return Ok(runtime.to_owned());
    }
    let folder = temporary.join(format!("polymath-{}", user()?));
    match DirBuilder::new().mode(0o700).create(&folder) {
        Err(e) if e.kind() != IoKind::AlreadyExists => {
            return Err(io_failure("create", &folder, &e));
        }
        _ => check(&folder)?,
    }
    Ok(folder)
}

/// Refuses a folder that another user owns or may enter, and a link to one.
pub(super) fn check(folder: &Path) -> Result<(), Failure> {
    let found = fs::symlink_metadata(folder).map_err(|e| io_failure("use", folder, &e))?;
    let (mode, owner, user) = (found.permissions().mode() & 0o777, found.uid(), user()?);
    if found.is_dir() && owner == user && mode & 0o077 == 0 {
        return Ok(());
    }
    Err(Failure::new(
        ErrorKind::Config,
        format!(
            "{} is no folder of user {user} alone (owner {owner}, mode {mode:o}), and the home's own path is too long for a socket: remove it, set XDG_RUNTIME_DIR to one that is, or choose a shorter --home",
            folder.display()
        ),
    ))
}

/// The user this process runs as. The standard library tells it only of files; one that we create
/// is ours.
fn user() -> Result<u32, Failure> {
    let file = tempfile::tempfile().and_then(|f| f.metadata());
    file.map(|m| m.uid())
        .map_err(|e| io_failure("create a file in", &std::env::temp_dir(), &e))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn with_mode(folder: &Path, mode: u32) {
        fs::create_dir_all(folder).unwrap();
        fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn the_runtime_folder_is_used_when_it_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let (runtime, temporary) = (dir.path().join("run"), dir.path().join("tmp"));
        fs::create_dir(&temporary).unwrap();
        with_mode(&runtime, 0o700);
        assert_eq!(choose(Some(&runtime), &temporary).unwrap(), runtime);
        with_mode(&runtime, 0o755);
        let own = choose(Some(&runtime), &temporary).unwrap();
        assert_eq!(own.parent(), Some(&*temporary));
        assert_eq!(
            fs::metadata(&own).unwrap().permissions().mode() & 0o777,
            0o700
        );
        assert_eq!(choose(None, &temporary).unwrap(), own);
    }

    #[test]
    fn a_folder_that_others_may_have_prepared_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let own = choose(None, dir.path()).unwrap();
        with_mode(&own, 0o777);
        let open = choose(None, dir.path()).unwrap_err();
        assert!(open.message.contains("mode 777"), "{open}");
        with_mode(&own, 0o700);
        if std::os::unix::fs::chown(&own, Some(54321), None).is_ok() {
            let foreign = choose(None, dir.path()).unwrap_err();
            assert!(foreign.message.contains("owner 54321"), "{foreign}");
        } else {
            eprintln!("the owner was not tested: only root can give a folder away");
        }
        fs::remove_dir(&own).unwrap();
        let elsewhere = dir.path().join("elsewhere");
        with_mode(&elsewhere, 0o700);
        std::os::unix::fs::symlink(&elsewhere, &own).unwrap();
        assert!(choose(None, dir.path()).is_err());
    }
}
