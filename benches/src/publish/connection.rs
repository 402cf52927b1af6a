//! A connection that writes batches whole and listens to what is answered meanwhile.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{MemfdFlags, memfd_create, sendfile};

use super::STALLED;
use super::protocol::{Answers, Protocol};
use crate::stop;

const ANSWER_BYTES: usize = 64 << 10;

/// Messages that are sent again and again.
pub(super) struct Batch {
    file: OwnedFd,
    pub bytes: usize,
    pub messages: u64,
}

impl Batch {
    pub fn new(bytes: &[u8], messages: u64) -> io::Result<Self> {
        let file = memfd_create("batch", MemfdFlags::CLOEXEC)?;
        let mut file = File::from(file);
        file.write_all(bytes)?;
        Ok(Self { file: file.into(), bytes: bytes.len(), messages })
    }
}

pub(super) struct Connection {
    protocol: Protocol,
    stream: TcpStream,
    /// Messages the kernel has taken whole.
    pub sent: u64,
    answers: Answers,
    /// The server has closed.
    is_over: bool,
}

impl Connection {
    pub fn open(protocol: Protocol, remote: SocketAddr) -> Result<Self, String> {
        let stream = TcpStream::connect(remote).map_err(|error| error.to_string())?;
        let prepared = stream.set_nodelay(true).and_then(|()| stream.set_nonblocking(true));
        prepared.map_err(|error| error.to_string())?;
        let mut connection = Self { protocol, stream, sent: 0, answers: Answers::default(), is_over: false };
        connection.write(protocol.greeting())?;
        Ok(connection)
    }

    /// Sends all of a batch, from the kernel's memory: it costs this side no copy.
    pub fn send(&mut self, batch: &Batch) -> Result<(), String> {
        self.transfer(batch.bytes, |stream, sent| {
            let mut offset = sent as u64;
            Ok(sendfile(stream, &batch.file, Some(&mut offset), batch.bytes - sent)?)
        })?;
        self.sent += batch.messages;
        if self.protocol.is_talkative() { self.listen() } else { Ok(()) }
    }

    fn write(&mut self, words: &[u8]) -> Result<(), String> {
        self.transfer(words.len(), |mut stream, sent| stream.write(&words[sent..]))
    }

    /// Has all of so many bytes sent by `go_on`, which is told how many were. A signal does not cut them in two: no stream ends
    /// inside a message.
    fn transfer(
        &mut self,
        bytes: usize,
        mut go_on: impl FnMut(&TcpStream, usize) -> io::Result<usize>,
    ) -> Result<(), String> {
        let (mut sent, mut since) = (0, Instant::now());
        while sent < bytes {
            match go_on(&self.stream, sent) {
                Ok(count) => {
                    sent += count;
                    since = Instant::now();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait(PollFlags::OUT, since)?,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    // Its reason may be among what it has said.
                    self.listen()?;
                    return Err(error.to_string());
                }
            }
        }
        Ok(())
    }

    pub fn say_farewell(&mut self) -> Result<(), String> {
        match self.protocol.farewell() {
            Some(words) => self.write(words),
            None => self.stream.shutdown(Shutdown::Write).map_err(|error| error.to_string()),
        }
    }

    /// Waits until the server has taken in everything.
    pub fn wait_for_farewell(&mut self) -> Result<(), String> {
        let (protocol, since) = (self.protocol, Instant::now());
        let wanted = protocol.answers(self.sent);
        let closes = protocol.farewell().is_none();
        while if closes { !self.is_over } else { self.answers.count < wanted } {
            if self.is_over {
                return Err(format!("the server has closed, {} answers of {wanted}", self.answers.count));
            }
            self.wait(PollFlags::IN, since)?;
        }
        Ok(())
    }

    /// Waits a moment for `what`, and listens if there is something to hear.
    fn wait(&mut self, what: PollFlags, since: Instant) -> Result<(), String> {
        if since.elapsed() > STALLED {
            return Err(format!("nothing was read or answered for {} s", STALLED.as_secs()));
        }
        if stop::is_requested() && what == PollFlags::IN {
            return Err("interrupted".to_owned());
        }
        let mut files = [PollFd::from_borrowed_fd(self.stream.as_fd(), what | PollFlags::IN)];
        match poll(&mut files, Some(&stop::LOOK)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(io::Error::from(error).to_string()),
        }
        let has_answers = files[0].revents().intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR);
        if has_answers { self.listen() } else { Ok(()) }
    }

    /// Reads what the server has said so far.
    fn listen(&mut self) -> Result<(), String> {
        let mut bytes = [0; ANSWER_BYTES];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => {
                    self.is_over = true;
                    return Ok(());
                }
                Ok(count) => self.answers.take(self.protocol, &bytes[..count])?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}
