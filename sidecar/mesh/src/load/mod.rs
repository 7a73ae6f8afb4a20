// SPDX-License-Identifier: Apache-2.0
//! Files and folders → documents; a mounted ConfigMap is such a folder.
//!
//! Of a folder, its `.yaml`, `.yml` and `.json` files whose name does not begin with a dot. A ConfigMap's volume has its
//! files as links into `..data`, itself a link that is exchanged in one step; by following the files' links all of that is
//! seen and nothing is seen twice.
//!
//! An absence is an error, never a statement: a path without files, a file without documents and a link to nothing are
//! what a full disk, an unmounted volume or a wrong path leave behind.

mod texts;
mod variables;

use crate::context::Context;
use crate::document::{DocumentError, Found, Lost, Place, is_list, read_document};
use crate::kinds::Kind;
use crate::read::Problem;
use crate::read::yaml::{self, Piece, YamlError};
use serde_json::Value;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;
use variables::Filled;

pub use variables::is_variable;

/// Bounds of what is read; more is an error before it takes memory.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// Most files of all folders together.
    files: usize,
    /// Most bytes of all files together; a ConfigMap holds one MiB.
    bytes: u64,
    /// Most documents of all files together.
    documents: usize,
    /// Most bytes of memory that documents may take once they are read.
    memory: usize,
}

/// Beside the plan in force, the text and the tree of one document, these fit into the 256 MiB of the manifests.
const BOUNDS: Bounds = Bounds { files: 20_000, bytes: 64 << 20, documents: 50_000, memory: 80 << 20 };

const NO_FILE: &str =
    "found a folder without files; allowed: at least one *.yaml, *.yml or *.json, or no --resources for it";

/// Error of a file or of a document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// A file or folder cannot be read.
    #[error("{path}: {what}", path = path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// Error of the kernel, or what is allowed.
        what: String,
    },
    /// A document is wrong.
    #[error(transparent)]
    Document(#[from] DocumentError),
}

/// State of the files at one time; another fingerprint means that they changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint(Vec<(PathBuf, Option<Seen>)>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    modified: Option<SystemTime>,
    /// A new mode makes an unreadable file readable, and changes this time alone.
    changed: (i64, i64),
    size: u64,
    device: u64,
    inode: u64,
}

impl Fingerprint {
    /// Takes the state of the files, without opening them.
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

    /// Returns the number of files.
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

/// Lists the files of a path, sorted; the metadata of some may be an error.
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
        let metadata = fs::metadata(&file);
        let gone = |found: &io::Result<Metadata>| {
            found.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        };
        // Removed since the folder was read. A link that stays and leads nowhere is an error instead: its file is lost.
        if !(gone(&metadata) && gone(&fs::symlink_metadata(&file))) {
            files.push((file, metadata));
        }
    }
    files.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(files)
}

/// Errors that are kept and reported: thousands of documents of a broken generator all have the same.
pub const MOST_ERRORS: usize = 200;

/// Documents that do not come from a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// Name of the source; it stands where the path of a file would.
    pub name: Arc<str>,
    /// The documents.
    pub text: Arc<str>,
}

/// Everything that documents are read from.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sources<'s> {
    /// Files and folders.
    pub paths: &'s [PathBuf],
    /// True if a path may lead to nothing: a volume that is optional is an empty folder until its source exists.
    pub may_be_absent: bool,
    /// Texts of other sources. A document of theirs replaces the one of a file with the same kind, mesh and name.
    pub texts: &'s [Text],
}

/// Documents and errors of files.
#[derive(Debug)]
pub struct Loaded {
    /// Documents that were found.
    pub found: Found,
    /// Errors of files and single documents, at most [`MOST_ERRORS`].
    pub errors: Vec<LoadError>,
    /// Number of further errors.
    pub more: usize,
    /// Notes about documents of files that others replace.
    pub replaced: Vec<String>,
    /// Documents so far, those that are not read because there are too many included.
    documents: usize,
    /// Bytes of memory that documents take.
    memory: usize,
    bounds: Bounds,
}

impl Default for Loaded {
    fn default() -> Self {
        Self::within(BOUNDS)
    }
}

/// Reads all documents. Every error is reported, and rules about several documents can still be checked.
pub fn load(context: &Context, sources: &Sources<'_>) -> Loaded {
    load_within(BOUNDS, context, sources)
}

fn load_within(bounds: Bounds, context: &Context, sources: &Sources<'_>) -> Loaded {
    let mut loaded = files_within(bounds, context, sources);
    texts::add(&mut loaded, context, sources);
    let first = || match (sources.paths.first(), sources.texts.first()) {
        (Some(path), _) => path.clone(),
        (None, text) => text.map_or_else(PathBuf::new, |text| PathBuf::from(&*text.name)),
    };
    if loaded.documents > bounds.documents {
        let what = format!("found {} documents; allowed: {}", loaded.documents, bounds.documents);
        loaded.cannot_read(&first(), what);
    }
    if loaded.memory > bounds.memory {
        let what = format!("found documents that take more memory than is allowed: {} bytes", bounds.memory);
        loaded.cannot_read(&first(), what);
    }
    loaded
}

fn files_within(bounds: Bounds, context: &Context, sources: &Sources<'_>) -> Loaded {
    let Sources { paths, may_be_absent, texts: _ } = *sources;
    let mut loaded = Loaded::within(bounds);
    let mut bytes = 0;
    let mut count = 0;
    for path in paths {
        let files = match list(path) {
            Ok(files) => files,
            Err(error) if may_be_absent && error.kind() == io::ErrorKind::NotFound => continue,
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
        if files.is_empty() && !may_be_absent {
            loaded.cannot_read(path, NO_FILE);
        }
        for (file, metadata) in files {
            match metadata.and_then(|metadata| read(&file, &metadata, bounds.bytes)) {
                Ok(text) => {
                    if loaded.add_pieces(context, &text, &file) == 0 {
                        loaded.cannot_read(&file, no_document(&text));
                    }
                }
                Err(error) => loaded.cannot_read(&file, error),
            }
        }
    }
    loaded
}

fn read(file: &Path, metadata: &Metadata, most: u64) -> io::Result<String> {
    use std::io::Read as _;
    if !metadata.is_file() {
        let found =
            if metadata.is_dir() { "a folder inside of a folder" } else { "neither a file nor a folder" };
        return Err(io::Error::other(format!("found {found}; allowed: a file")));
    }
    let mut bytes = Vec::new();
    // The file may have grown since its size was read.
    fs::File::open(file)?.take(most).read_to_end(&mut bytes)?;
    String::from_utf8(bytes).map_err(|error| {
        let line =
            1 + error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count();
        io::Error::other(format!("line {line}: found bytes that are no UTF-8; allowed: text in UTF-8"))
    })
}

/// Describes a file that says nothing: truncated by a full disk, or of comments only.
fn no_document(text: &str) -> String {
    let bytes = text.len();
    format!("found no document in {bytes} bytes; allowed: at least one (remove the file if none is meant)")
}

/// Documents of a list. They count once the whole of it is known to be one: kubectl writes its kind behind the items.
struct ListItems {
    attempt: usize,
    loaded: Loaded,
}

impl ListItems {
    fn read(&mut self, context: &Context, item: &Value, place: &Place, attempt: usize) {
        if attempt != self.attempt {
            *self = Self { attempt, loaded: Loaded::within(self.loaded.bounds) };
        }
        self.loaded.add_document(context, item, place, true);
    }
}

impl Loaded {
    fn within(bounds: Bounds) -> Self {
        Self {
            found: Found::default(),
            errors: Vec::new(),
            more: 0,
            replaced: Vec::new(),
            documents: 0,
            memory: 0,
            bounds,
        }
    }

    /// Returns true once no further document is read.
    fn is_full(&self) -> bool {
        self.documents > self.bounds.documents || self.memory > self.bounds.memory
    }

    fn note(&mut self, errors: impl IntoIterator<Item = LoadError>) {
        for error in errors {
            if self.errors.len() < MOST_ERRORS {
                self.errors.push(error);
            } else {
                self.more += 1;
            }
        }
    }

    /// Reads one document, unless there were too many before.
    fn add_document(&mut self, context: &Context, value: &Value, place: &Place, item: bool) {
        self.documents += 1;
        if self.is_full() {
            return;
        }
        let place = Place { item: item.then_some(self.documents), ..place.clone() };
        let before = self.found.documents.len();
        let errors = read_document(context, value, &place, &mut self.found);
        self.note(errors.into_iter().map(Into::into));
        self.memory += match self.found.documents.len() == before {
            // Lost, or left out.
            true => size_of::<Lost>(),
            false => self.found.memory_of_last(value),
        };
    }

    fn append(&mut self, mut list: Self) {
        let Self { found, errors, more, replaced, documents, memory, bounds: _ } = &mut list;
        self.replaced.append(replaced);
        self.found.append(found);
        self.documents += *documents;
        self.memory += *memory;
        self.more += *more;
        self.note(errors.drain(..));
    }

    fn cannot_read(&mut self, path: &Path, what: impl ToString) {
        self.note([LoadError::File { path: path.into(), what: what.to_string() }]);
        self.found.lost.push(Lost::default());
    }

    /// Reads the documents of a text, as if it came from `file`.
    pub fn add(&mut self, context: &Context, text: &str, file: &Path) {
        self.add_pieces(context, text, file);
    }

    /// Reads the documents of a text and returns their number, wrong ones included.
    fn add_pieces(&mut self, context: &Context, text: &str, file: &Path) -> usize {
        let name: Arc<str> = file.display().to_string().into();
        let mut count = 0;
        for piece in yaml::pieces(text) {
            count += 1;
            if self.is_full() {
                self.documents += 1;
                continue;
            }
            let place = Place { file: Arc::clone(&name), number: piece.number, item: None };
            match variables::fill(context, &piece) {
                Filled::Nothing => self.add_piece(context, &piece, &place),
                Filled::Text(text) => self.add_piece(context, &piece.with_text(&text), &place),
                Filled::Wrong { whose, problems, lost } => {
                    self.documents += 1;
                    self.memory += size_of::<Lost>();
                    self.found.lost.push(lost);
                    let error =
                        |problem| DocumentError { place: place.clone(), whose: whose.clone(), problem };
                    self.note(problems.into_iter().map(|problem| error(problem).into()));
                }
            }
        }
        count
    }

    /// Reads the document of a piece, or the items of a list.
    fn add_piece(&mut self, context: &Context, piece: &Piece<'_>, place: &Place) {
        let left = Bounds {
            documents: self.bounds.documents.saturating_sub(self.documents),
            memory: self.bounds.memory.saturating_sub(self.memory),
            ..self.bounds
        };
        let mut items = ListItems { attempt: 1, loaded: Self::within(left) };
        let (value, error) = piece.parse(&mut |attempt, item| items.read(context, &item, place, attempt));
        if let Some(error) = error {
            self.note([no_yaml(&error, place).into()]);
        }
        if let Some(value) = &value {
            match is_list(value) {
                true => self.append(items.loaded),
                false => self.add_document(context, value, place, false),
            }
        } else if context.dataplane.as_ref().is_some_and(|pod| piece.holds(pod)) {
            // The document may be the pod's Dataplane, so that one is not reported as missing.
            self.found.lost.push(Lost::default());
        } else if piece.holds(Kind::Mesh.name()) && piece.holds(&context.mesh) {
            self.found.lost.push(Lost { kind: Some(Kind::Mesh), ..Lost::default() });
        }
    }
}

fn no_yaml(error: &YamlError, place: &Place) -> DocumentError {
    let problem = Problem {
        path: String::new(),
        found: format!("no YAML: {error}"),
        allowed: "a YAML document; documents are separated by --- lines".into(),
    };
    DocumentError { place: place.clone(), whose: String::new(), problem }
}

#[cfg(test)]
mod tests;
