//! The control socket: one JSON request a line, one JSON answer a line, for the engine's own user and root only.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use super::letter_lines::{Wanted, tell};
use crate::control::State;
use crate::engine::Control;
use crate::storage::ReplayOrder;
use crate::storage::format::{LetterQueue, parse_reason};
use crate::storage::letters::LetterFilter;
use crate::storage::topics::TopicFilter;
use crate::subscribe::NameKind;

/// Longest request line; a request is a handful of words.
const REQUEST_BYTES_MAX: u64 = 4096;

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// The live report.
    Status,
    State,
    SetState {
        state: String,
    },
    /// Reads the configuration file again.
    Reload,
    /// Tells of each dead letter that matches, a line for each.
    DlqList(Listing),
    /// The same of one, whole.
    DlqShow {
        /// failed or shed.
        queue: String,
        offset: u64,
    },
    /// Counts the dead letters that match.
    DlqStats(Which),
    /// Throws the dead letters away that match.
    DlqPurge(Which),
    /// Begins to replay the dead letters that match.
    DlqReplay(Replay),
    /// How far that is.
    DlqReplayStatus,
    /// Lists durable subscriptions and groups.
    Subscriptions,
    /// Forgets one that nobody uses.
    SubscriptionDelete {
        name: String,
        #[serde(default)]
        kind: Option<NameKind>,
    },
}

/// Which dead letters; all of these hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Which {
    /// failed or shed.
    pub queue: Option<String>,
    pub reason: Option<String>,
    /// A topic filter.
    pub topic: Option<String>,
    pub since_ns: Option<u64>,
    pub until_ns: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listing {
    pub which: Which,
    /// So many at most.
    pub limit: Option<u64>,
    /// With payloads, and all else.
    pub whole: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Replay {
    pub which: Which,
    /// So many a second at most.
    pub per_s: Option<u64>,
}

impl Which {
    pub(super) fn parse(&self) -> Result<(Option<LetterQueue>, LetterFilter), String> {
        let queue = |name: &String| {
            let found = LetterQueue::ALL.into_iter().find(|queue| queue.as_str() == name);
            found.ok_or_else(|| format!("there is no queue {name}: failed, shed"))
        };
        let named = match &self.reason {
            Some(name) => Some(parse_reason(name).ok_or_else(|| format!("there is no reason {name}"))?),
            None => None,
        };
        let filter = LetterFilter {
            reason: named.map(|(reason, _)| reason),
            consumer: named.and_then(|(_, group)| group.map(str::to_owned)),
            topic: self.topic.as_deref().map(TopicFilter::parse).transpose()?,
            since_ns: self.since_ns,
            until_ns: self.until_ns,
        };
        Ok((self.queue.as_ref().map(queue).transpose()?, filter))
    }
}

/// The listening socket, removed when dropped.
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ControlSocket {
    /// Binds the first of `paths` that can be had, and asks for no further one. A socket file nobody listens on any more is
    /// replaced.
    pub fn bind(paths: impl IntoIterator<Item = PathBuf>) -> Result<Self, String> {
        let mut refused = Vec::new();
        for path in paths {
            match bind_one(&path) {
                Ok(listener) => return Ok(Self { listener, path }),
                Err(error) => refused.push(format!("{}: {error}", path.display())),
            }
        }
        Err(refused.join("; "))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Serves connections until the task is dropped. Reloads are passed on, since the file is the main thread's to read.
    pub async fn serve(self, control: Control, reloads: mpsc::Sender<()>) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    tokio::spawn(answer(stream, control.clone(), reloads.clone()));
                }
                // Out of descriptors: wait for some to be closed instead of spinning.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn bind_one(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    if path.exists() {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another engine answers there"));
        }
        fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn answer(stream: UnixStream, control: Control, reloads: mpsc::Sender<()>) {
    let own = rustix::process::geteuid().as_raw();
    let allowed = stream.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0);
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let mut reader = tokio::io::BufReader::new(read).take(REQUEST_BYTES_MAX);
    if !matches!(reader.read_line(&mut line).await, Ok(count) if count > 0) {
        return;
    }
    let result = match serde_json::from_str(&line) {
        _ if !allowed => Err("only the engine's own user may ask".to_owned()),
        Err(error) => Err(format!("request: {error}")),
        Ok(Request::DlqList(Listing { which, limit, whole })) => match Wanted::list(&which, limit, whole) {
            Ok(wanted) => tell(wanted, &control, &mut write).await.map(Value::from),
            Err(error) => Err(error),
        },
        Ok(Request::DlqShow { queue, offset }) => match Wanted::one(&queue, offset) {
            Ok(wanted) => tell(wanted, &control, &mut write).await.map(Value::from),
            Err(error) => Err(error),
        },
        Ok(request) => execute(request, &control, &reloads).await,
    };
    let answer = match result {
        Ok(value) => json!({ "ok": value }),
        Err(message) => json!({ "error": message }),
    };
    // The asker may have gone; then nobody misses the answer.
    let _ = write.write_all(format!("{answer}\n").as_bytes()).await;
}

async fn execute(request: Request, control: &Control, reloads: &mpsc::Sender<()>) -> Result<Value, String> {
    match request {
        Request::Status => serde_json::to_value(control.report()).map_err(|error| error.to_string()),
        Request::State => Ok(json!(control.state().name())),
        Request::SetState { state } => {
            let known = State::ALL.into_iter().find(|known| known.name() == state);
            let known = known.ok_or_else(|| format!("there is no state {state}"))?;
            control.set_state(known)?;
            Ok(json!(control.state().name()))
        }
        Request::Reload => {
            reloads.send(()).await.map_err(|_| "the engine is ending".to_owned())?;
            Ok(json!("reload requested; the log says what came of it"))
        }
        request => {
            let control = control.clone();
            // It waits for a disk.
            let asked = tokio::task::spawn_blocking(move || match request {
                Request::Subscriptions | Request::SubscriptionDelete { .. } => ask_of_names(request, &control),
                request => ask_of_letters(&request, &control),
            });
            asked.await.map_err(|error| error.to_string())?
        }
    }
}

pub(super) const IN_MEMORY: &str = "the engine keeps its dead letters in memory: it has no storage.directory";

fn ask_of_names(request: Request, control: &Control) -> Result<Value, String> {
    let names = control.names().ok_or("the engine has no subscribers: it does not listen on TCP")?;
    let value = match request {
        Request::SubscriptionDelete { name, kind } => serde_json::to_value(names.delete(kind, name)?),
        _ => serde_json::to_value(names.list()?),
    };
    value.map_err(|error| error.to_string())
}

fn ask_of_letters(request: &Request, control: &Control) -> Result<Value, String> {
    let letters = control.dead_letters().ok_or(IN_MEMORY)?;
    let value = match request {
        Request::DlqStats(which) => {
            let (queue, filter) = which.parse()?;
            serde_json::to_value(letters.stats(queue, &filter)?)
        }
        Request::DlqPurge(which) => {
            let (queue, filter) = which.parse()?;
            serde_json::to_value(letters.purge(queue, &filter)?)
        }
        Request::DlqReplay(Replay { which, per_s }) => {
            let (queue, filter) = which.parse()?;
            letters.replay(ReplayOrder { queue, filter, per_s: *per_s })?;
            Ok(json!("begun"))
        }
        _ => serde_json::to_value(letters.replay_status()?),
    };
    value.map_err(|error| error.to_string())
}

/// A folder for the sockets of a user who has no runtime directory, as without a login session. Others may write beside
/// it, so one that somebody else has made, or can look into, is none.
pub fn private_folder(temporary: &Path) -> io::Result<PathBuf> {
    match fs::DirBuilder::new().mode(0o700).create(private_place(temporary)) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    existing_private_folder(temporary)
}

fn private_place(temporary: &Path) -> PathBuf {
    temporary.join(format!("runtime-{}", rustix::process::geteuid().as_raw()))
}

/// The same, for who only looks for an engine: nothing is made.
pub fn existing_private_folder(temporary: &Path) -> io::Result<PathBuf> {
    let own = rustix::process::geteuid().as_raw();
    let folder = private_place(temporary);
    let found = fs::symlink_metadata(&folder)?;
    if found.is_dir() && found.uid() == own && found.mode() & 0o077 == 0 {
        Ok(folder)
    } else {
        let text = format!("{} is not a folder of this user's alone", folder.display());
        Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
    }
}

/// Asks a running engine; for the command line. Calls `each` with the dead letters of an answer that has any, as they come.
pub fn ask(
    paths: impl IntoIterator<Item = PathBuf>,
    request: &Request,
    each: impl FnMut(Value) -> Result<(), String>,
) -> Result<Value, String> {
    let mut refused = Vec::new();
    for path in paths {
        match std::os::unix::net::UnixStream::connect(&path) {
            Ok(stream) => {
                return converse(stream, request, each).map_err(|error| format!("{}: {error}", path.display()));
            }
            Err(error) => refused.push(format!("{}: {error}", path.display())),
        }
    }
    Err(format!("no engine answers on its control socket ({})", refused.join("; ")))
}

fn converse(
    mut stream: std::os::unix::net::UnixStream,
    request: &Request,
    mut each: impl FnMut(Value) -> Result<(), String>,
) -> Result<Value, String> {
    let text = |error: io::Error| error.to_string();
    stream.set_read_timeout(Some(Duration::from_secs(10))).map_err(text)?;
    let line = serde_json::to_string(request).map_err(|error| error.to_string())?;
    stream.write_all(format!("{line}\n").as_bytes()).map_err(text)?;
    let (mut reader, mut line) = (BufReader::new(stream), String::new());
    loop {
        line.clear();
        reader.read_line(&mut line).map_err(text)?;
        let mut answer: Value = serde_json::from_str(&line).map_err(|error| format!("answer: {error}"))?;
        if let Some(letter) = answer.get_mut("letter") {
            each(letter.take())?;
        } else if let Some(error) = answer.get("error").and_then(Value::as_str) {
            return Err(error.to_owned());
        } else if let Some(ok) = answer.get_mut("ok") {
            return Ok(ok.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_others_can_look_into_is_not_private() {
        let temporary = std::env::temp_dir().join(format!("esc-private-{}", std::process::id()));
        fs::create_dir_all(&temporary).unwrap();
        assert!(existing_private_folder(&temporary).is_err());
        assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0, "looking makes nothing");
        let folder = private_folder(&temporary).unwrap();
        assert_eq!(existing_private_folder(&temporary).unwrap(), folder);
        assert_eq!(folder.metadata().unwrap().mode() & 0o777, 0o700);
        assert_eq!(private_folder(&temporary).unwrap(), folder);
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o750)).unwrap();
        assert!(private_folder(&temporary).is_err());
        fs::remove_dir(&folder).unwrap();
        // Somewhere else's folder, behind a link of that name.
        std::os::unix::fs::symlink("/", &folder).unwrap();
        assert!(private_folder(&temporary).is_err());
        fs::remove_dir_all(&temporary).unwrap();
    }

    #[tokio::test]
    async fn no_place_is_asked_for_behind_the_one_that_was_bound() {
        let folder = std::env::temp_dir().join(format!("esc-bind-{}", std::process::id()));
        // The first one cannot be had: a file is no folder.
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("file"), "").unwrap();
        let mut asked = Vec::new();
        let places = ["file/control.sock", "second/control.sock", "third/control.sock"].map(|place| folder.join(place));
        let socket =
            ControlSocket::bind(places.iter().inspect(|place| asked.push(place.to_path_buf())).cloned()).unwrap();
        assert_eq!((socket.path(), &asked[..]), (places[1].as_path(), &places[..2]));
        drop(socket);
        assert!(!folder.join("third").exists());
        fs::remove_dir_all(&folder).unwrap();
    }
}
