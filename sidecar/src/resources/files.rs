// SPDX-License-Identifier: Apache-2.0
//! Where documents lie: files and folders, a mounted ConfigMap among them.
//!
//! Of a folder, its `.yaml`, `.yml` and `.json` files whose name does not begin with a dot. A ConfigMap's volume has its
//! files as links into `..data`, itself a link that is exchanged in one step; by following the files' links all of that is
//! seen and nothing is seen twice.

use super::document::{Document, DocumentError, Place, read_all};
use super::read::Problem;
use super::yaml;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Most files of all folders together.
const MOST_FILES: usize = 20_000;
/// Most bytes of all files together; a ConfigMap holds one MiB.
const MOST_BYTES: u64 = 64 << 20;
/// Most documents.
const MOST_DOCUMENTS: usize = 50_000;
/// Most errors that are told.
const MOST_ERRORS: usize = 200;

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
    /// There are more errors than are told.
    #[error("and {0} more errors")]
    More(usize),
}

/// How the files were when they were looked at; another one means that they changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint(Vec<(PathBuf, Option<Seen>)>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    modified: Option<SystemTime>,
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
                Ok(files) => seen.extend(files.into_iter().map(|(file, of)| (file, Some(Seen::of(&of))))),
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
            size: metadata.len(),
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }
}

/// The files of a path, sorted.
fn list(path: &Path) -> io::Result<Vec<(PathBuf, Metadata)>> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_dir() {
        return Ok(vec![(path.into(), metadata)]);
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
            Ok(metadata) if metadata.is_file() => files.push((file, metadata)),
            // A folder, or one that was taken away this moment.
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    files.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(files)
}

/// Reads all documents.
///
/// # Errors
/// Everything that is wrong with any of them.
pub fn load(paths: &[PathBuf]) -> Result<Vec<Document>, Vec<LoadError>> {
    let (mut documents, mut errors) = (Vec::new(), Vec::new());
    let mut bytes = 0;
    let mut count = 0;
    for path in paths {
        let wrong = |what: String| LoadError::File { path: path.clone(), what };
        let files = match list(path) {
            Ok(files) => files,
            Err(error) => {
                errors.push(wrong(error.to_string()));
                continue;
            }
        };
        count += files.len();
        bytes += files.iter().map(|(_, metadata)| metadata.len()).sum::<u64>();
        if count > MOST_FILES || bytes > MOST_BYTES {
            errors.push(wrong(format!(
                "found {count} files with {bytes} bytes; allowed: {MOST_FILES} files and {MOST_BYTES} bytes in all"
            )));
            break;
        }
        for (file, metadata) in files {
            if !metadata.is_file() {
                errors.push(LoadError::File { path: file, what: "neither a file nor a folder".into() });
                continue;
            }
            match read(&file) {
                Ok(text) => add(&text, &file, &mut documents, &mut errors),
                Err(error) => errors.push(LoadError::File { path: file, what: error.to_string() }),
            }
        }
    }
    if documents.len() > MOST_DOCUMENTS {
        errors.push(LoadError::File {
            path: paths.first().cloned().unwrap_or_default(),
            what: format!("found {} documents; allowed: {MOST_DOCUMENTS}", documents.len()),
        });
    }
    if errors.is_empty() {
        return Ok(documents);
    }
    if errors.len() > MOST_ERRORS {
        let more = errors.len() - MOST_ERRORS;
        errors.truncate(MOST_ERRORS);
        errors.push(LoadError::More(more));
    }
    Err(errors)
}

fn read(file: &Path) -> io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    // It may have grown since it was looked at.
    fs::File::open(file)?.take(MOST_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

/// Reads the documents of a text.
pub fn add(text: &str, file: &Path, documents: &mut Vec<Document>, errors: &mut Vec<LoadError>) {
    let name: std::sync::Arc<str> = file.display().to_string().into();
    for piece in yaml::pieces(text) {
        let place = Place { file: name.clone(), number: piece.number, item: None };
        match piece.parse() {
            Ok(value) => {
                let (good, bad) = read_all(&value, &place);
                documents.extend(good);
                errors.extend(bad.into_iter().map(LoadError::from));
            }
            Err(error) => {
                let problem = Problem {
                    path: String::new(),
                    found: format!("no YAML: {error}"),
                    allowed: "a YAML document; documents are separated by --- lines".into(),
                };
                errors.push(DocumentError { place, whose: String::new(), problem }.into());
            }
        }
    }
}
