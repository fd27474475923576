//! The file of a Unix socket: made for those only who may read something, and never in the place of another server's.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

use super::{BindError, UnixOptions};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// A bound socket's file, removed when this is dropped.
#[derive(Debug)]
pub(super) struct UnixSocket {
    path: PathBuf,
    /// Device and inode of the socket's file: another one in its place is not ours to remove.
    file: (u64, u64),
    /// Holds the lock.
    _lock: File,
}

impl UnixSocket {
    /// Binds and listens.
    pub(super) fn bind(options: &UnixOptions) -> Result<(UnixListener, Self), BindError> {
        let path = &options.path;
        let failed = |doing| move |source| BindError::Unix { doing, path: path.clone(), source };
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        make_private(folder, options)?;
        let lock = lock(path)?;
        remove_dead(path)?;

        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed("make"))?;
        socket.bind(&SockAddr::unix(path).map_err(failed("bind"))?).map_err(failed("bind"))?;
        let file = fs::symlink_metadata(path).map_err(failed("look at"))?;
        let bound = Self { path: path.clone(), file: (file.dev(), file.ino()), _lock: lock };
        // Nobody can connect before `listen`, so nobody does under wider permissions.
        fs::set_permissions(path, Permissions::from_mode(options.mode)).map_err(failed("set the permissions of"))?;
        socket.listen(BACKLOG).map_err(failed("listen on"))?;
        Ok((UnixListener::from(socket), bound))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|file| (file.dev(), file.ino()) == self.file);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the socket of the SDS server");
        }
    }
}

/// Makes the folder if it does not exist; refuses one in which others could replace the socket.
fn make_private(folder: &Path, options: &UnixOptions) -> Result<(), BindError> {
    let failed = |doing| move |source| BindError::Unix { doing, path: folder.to_owned(), source };
    match fs::metadata(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new()
                .recursive(true)
                .mode(options.folder_mode())
                .create(folder)
                .map_err(failed("make the folder"))?;
        }
        Err(error) => return Err(failed("look at")(error)),
        Ok(found) => {
            let owner_is_trusted = found.uid() == 0 || found.uid() == rustix::process::geteuid().as_raw();
            if !owner_is_trusted || found.mode() & 0o022 != 0 {
                return Err(BindError::FolderNotPrivate(folder.to_owned()));
            }
        }
    }
    // Left as it is: it may be closed on purpose, by whoever made it or by the umask.
    let mode = fs::metadata(folder).map_err(failed("look at"))?.mode();
    if options.is_for_others() && mode & 0o001 == 0 {
        tracing::warn!(folder = %folder.display(), mode = format_args!("{:o}", mode & 0o777), "rules of the SDS \
            server are for other users, and they cannot enter the socket's folder; `chmod o+x` it");
    }
    Ok(())
}

/// Takes the lock beside the socket, so that of two servers that start at once only one finds a dead socket dead.
fn lock(path: &Path) -> Result<File, BindError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    let failed = |source| BindError::Unix { doing: "lock", path: name.clone(), source };
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&name).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(BindError::InUse(path.to_owned())),
        Err(fs::TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// Removes a socket that nobody listens on.
fn remove_dead(path: &Path) -> Result<(), BindError> {
    let failed = |doing| move |source| BindError::Unix { doing, path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at")(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(BindError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed("replace"))
        }
        // A listener, or something that is not ours to judge.
        _ => Err(BindError::InUse(path.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authorization::Authorization;

    fn folder() -> tempfile::TempDir {
        tempfile::Builder::new().permissions(Permissions::from_mode(0o700)).tempdir().expect("a folder")
    }

    fn bind(path: &Path) -> Result<(UnixListener, UnixSocket), BindError> {
        UnixSocket::bind(&UnixOptions::new(path))
    }

    #[test]
    fn the_file_is_its_owners_and_goes_with_the_server() {
        let folder = folder();
        let path = folder.path().join("deep/er/socket");
        let (listener, socket) = bind(&path).expect("a socket");
        assert_eq!(fs::metadata(&path).expect("the socket").mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().expect("a folder")).expect("it").mode() & 0o777, 0o700);
        drop((listener, socket));
        assert!(!path.exists());
    }

    #[test]
    fn other_users_reach_it_if_a_rule_is_for_them() {
        let modes = |rules: &str| {
            let folder = folder();
            let path = folder.path().join("sds/socket");
            let rules = Authorization::from_text(rules).expect(rules);
            let _bound = UnixSocket::bind(&UnixOptions::for_clients_of(&rules, &path)).expect("a socket");
            let mode = |path: &Path| fs::metadata(path).expect("made").mode() & 0o777;
            (mode(path.parent().expect("a folder")), mode(&path))
        };
        let own = rustix::process::geteuid().as_raw();
        let narrow = (0o700, 0o600);
        // A umask may narrow a folder that is made.
        let folder_of_all = {
            let folder = folder();
            let made = folder.path().join("made");
            DirBuilder::new().mode(0o755).create(&made).expect("a folder");
            fs::metadata(&made).expect("made").mode() & 0o777
        };
        let wide = (folder_of_all, 0o666);
        assert_eq!(modes(&format!("same-user *\nuid:{own} *\nspiffe://td/* *\ndns:a *")), narrow);
        assert_eq!(modes(&format!("same-user *\nuid:{} kubernetes://a/*", own + 101)), wide);
        assert_eq!(modes("any kubernetes://a/*"), wide);
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        let folder = folder();
        let path = folder.path().join("socket");
        drop(UnixListener::bind(&path).expect("a socket that is left behind"));
        assert!(path.exists());
        let (listener, socket) = bind(&path).expect("the dead one's place");
        assert!(matches!(bind(&path), Err(BindError::InUse(_))), "ours is alive");
        drop((listener, socket));
        let foreign = UnixListener::bind(&path).expect("a foreign server");
        assert!(matches!(bind(&path), Err(BindError::InUse(_))), "a foreign one, which has no lock");
        drop(foreign);
    }

    #[test]
    fn a_file_is_not_replaced() {
        let folder = folder();
        let path = folder.path().join("socket");
        fs::write(&path, "precious").expect("a file");
        assert!(matches!(bind(&path), Err(BindError::NotASocket(_))));
        assert_eq!(fs::read(&path).expect("still there"), b"precious");
    }

    #[test]
    fn a_folder_that_others_write_to_is_refused() {
        let folder = folder();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o1777)).expect("as /tmp");
        assert!(matches!(bind(&folder.path().join("socket")), Err(BindError::FolderNotPrivate(_))));
    }

    #[test]
    fn another_servers_socket_is_not_removed() {
        let folder = folder();
        let path = folder.path().join("socket");
        let (listener, socket) = bind(&path).expect("a socket");
        fs::remove_file(&path).expect("somebody takes it away");
        let _foreign = UnixListener::bind(&path).expect("and has its own");
        drop((listener, socket));
        assert!(path.exists());
    }
}
