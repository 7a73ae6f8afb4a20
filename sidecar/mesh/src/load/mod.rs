// SPDX-License-Identifier: Apache-2.0
//! Where documents lie: files and folders, a mounted ConfigMap among them.
//!
//! Of a folder, its `.yaml`, `.yml` and `.json` files whose name does not begin with a dot. A ConfigMap's volume has its
//! files as links into `..data`, itself a link that is exchanged in one step; by following the files' links all of that is
//! seen and nothing is seen twice.

use crate::context::Context;
use crate::document::{DocumentError, Found, Lost, Place, read_all};
use crate::read::Problem;
use crate::read::yaml;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// How much is read; what is above is an error before it costs memory.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// Files of all folders together.
    files: usize,
    /// Bytes of all files together; a ConfigMap holds one MiB.
    bytes: u64,
    /// Documents.
    documents: usize,
}

const BOUNDS: Bounds = Bounds { files: 20_000, bytes: 64 << 20, documents: 50_000 };

/// Documents that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// A file or folder that cannot be read.
    #[error("{path}: {what}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the kernel said, or what is allowed.
        what: String,
    },
    /// A document.
    #[error(transparent)]
    Document(#[from] DocumentError),
}

/// How the files were when they were looked at; another one means that they changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint(Vec<(PathBuf, Option<Seen>)>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    modified: Option<SystemTime>,
    /// A file that could not be read can be by another mode, which changes nothing else.
    changed: (i64, i64),
    size: u64,
    device: u64,
    inode: u64,
}

impl Fingerprint {
    /// Looks at the files, without opening them.
    pub fn of(paths: &[PathBuf]) -> Self {
        let mut seen = Vec::new();
        for path in paths {
            match list(path) {
                Ok(files) => {
                    seen.extend(files.into_iter().map(|(file, of)| (file, of.ok().as_ref().map(Seen::of))));
                }
                Err(_) => seen.push((path.clone(), None)),
            }
        }
        Self(seen)
    }

    /// How many files there are.
    pub fn files(&self) -> usize {
        self.0.len()
    }
}

impl Seen {
    fn of(metadata: &Metadata) -> Self {
        Self {
            modified: metadata.modified().ok(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            size: metadata.len(),
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }
}

/// The files of a path, sorted; of some it may be unknown what they are.
fn list(path: &Path) -> io::Result<Vec<(PathBuf, io::Result<Metadata>)>> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_dir() {
        return Ok(vec![(path.into(), Ok(metadata))]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let file = entry?.path();
        let hidden = file.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        let ours =
            file.extension().is_some_and(|end| ["yaml", "yml", "json"].iter().any(|ours| end == *ours));
        if hidden || !ours {
            continue;
        }
        match fs::metadata(&file) {
            // A folder.
            Ok(metadata) if !metadata.is_file() => {}
            // Taken away this moment, or a link whose file was: kubelet takes the file first.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            metadata => files.push((file, metadata)),
        }
    }
    files.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(files)
}

/// What files hold.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The documents.
    pub found: Found,
    /// What is wrong with any of them.
    pub errors: Vec<LoadError>,
}

/// Reads all documents. What is wrong is told for all of them, and what they say together can still be looked at.
pub fn load(context: &Context, paths: &[PathBuf]) -> Loaded {
    load_within(BOUNDS, context, paths)
}

fn load_within(bounds: Bounds, context: &Context, paths: &[PathBuf]) -> Loaded {
    let mut loaded = Loaded::default();
    let mut bytes = 0;
    let mut count = 0;
    for path in paths {
        let files = match list(path) {
            Ok(files) => files,
            Err(error) => {
                loaded.cannot_read(path, error);
                continue;
            }
        };
        count += files.len();
        bytes += files.iter().filter_map(|(_, metadata)| Some(metadata.as_ref().ok()?.len())).sum::<u64>();
        let Bounds { files: most, bytes: most_bytes, .. } = bounds;
        if count > most || bytes > most_bytes {
            loaded.cannot_read(
                path,
                format!("found {count} files with {bytes} bytes; allowed: {most} files and {most_bytes} bytes in all"),
            );
            break;
        }
        for (file, metadata) in files {
            match metadata.and_then(|metadata| read(&file, &metadata, bounds.bytes)) {
                Ok(text) => loaded.add(context, &text, &file),
                Err(error) => loaded.cannot_read(&file, error),
            }
        }
    }
    let documents = loaded.found.documents.len();
    if documents > bounds.documents {
        let what = format!("found {documents} documents; allowed: {}", bounds.documents);
        loaded.cannot_read(paths.first().map_or(Path::new(""), PathBuf::as_path), what);
    }
    loaded
}

fn read(file: &Path, metadata: &Metadata, most: u64) -> io::Result<String> {
    use std::io::Read as _;
    if !metadata.is_file() {
        return Err(io::Error::other("neither a file nor a folder"));
    }
    let mut bytes = Vec::new();
    // It may have grown since it was looked at.
    fs::File::open(file)?.take(most).read_to_end(&mut bytes)?;
    String::from_utf8(bytes).map_err(|error| {
        let line =
            1 + error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count();
        io::Error::other(format!("line {line}: found bytes that are no UTF-8; allowed: text in UTF-8"))
    })
}

impl Loaded {
    fn cannot_read(&mut self, path: &Path, what: impl ToString) {
        self.errors.push(LoadError::File { path: path.into(), what: what.to_string() });
        self.found.lost.push(Lost::default());
    }

    /// Reads the documents of a text.
    pub fn add(&mut self, context: &Context, text: &str, file: &Path) {
        let name: std::sync::Arc<str> = file.display().to_string().into();
        for piece in yaml::pieces(text) {
            let place = Place { file: name.clone(), number: piece.number, item: None };
            let (value, error) = piece.parse();
            if let Some(error) = error {
                let problem = Problem {
                    path: String::new(),
                    found: format!("no YAML: {error}"),
                    allowed: "a YAML document; documents are separated by --- lines".into(),
                };
                let place = place.clone();
                self.errors.push(DocumentError { place, whose: String::new(), problem }.into());
            }
            if let Some(value) = &value {
                let errors = read_all(context, value, &place, &mut self.found);
                self.errors.extend(errors.into_iter().map(LoadError::from));
            } else if context.dataplane.as_ref().is_some_and(|pod| piece.holds(pod)) {
                // It may be this pod's.
                self.found.lost.push(Lost::default());
            }
        }
    }
}

#[cfg(test)]
mod tests;
