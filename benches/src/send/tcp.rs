//! TCP connections, frames back to back.
//!
//! One thread serves all connections, each with its own producer number and its own buffer of frames. A connection that
//! takes no more is left alone until the kernel says it does: that is the engine's back-pressure, and the schedule falls
//! behind visibly. A group of frames that was begun is finished before the end, so that no stream ends inside a frame.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

use super::{during, flow_outcome};
use crate::mix::{Layout, Stamped, Stamper, Tally};
use crate::pace::Schedule;
use crate::report::Outcome;
use crate::stop;

/// Bytes stamped ahead for a connection: few system calls, and still in the nearest cache.
const BUFFER_BYTES: usize = 64 << 10;
/// How long a peer that does not read may hold up the end.
const FINISH: Duration = Duration::from_secs(5);

/// Whom to connect to, how often.
#[derive(Clone, Copy, Debug)]
pub struct TcpFlows {
    pub local: Option<SocketAddr>,
    pub remote: SocketAddr,
    pub connections: usize,
}

struct Connection {
    stream: TcpStream,
    stamper: Stamper,
    buffer: Vec<u8>,
    pending: Vec<Stamped>,
    /// Bytes stamped, and those of them the kernel has taken.
    filled: usize,
    written: usize,
    tally: Tally,
    is_blocked: bool,
}

/// Sends until the schedule ends, then waits until the peer has read everything.
pub fn tcp(
    flows: TcpFlows,
    layout: &Layout,
    schedule: impl FnOnce() -> Schedule,
) -> Result<(Outcome, Schedule), String> {
    let group_bytes = layout.datagram_bytes();
    let mut connections = Vec::with_capacity(flows.connections);
    for index in 0..flows.connections {
        let stream = connect(&flows).map_err(during(format!("connection {} to {}", index + 1, flows.remote)))?;
        connections.push(Connection::new(stream, Stamper::new(layout, index as u64), layout));
    }
    let mut schedule = schedule();
    let mut failure = run(&mut connections, group_bytes, &mut schedule).err();
    schedule.stop();
    let deadline = Instant::now() + FINISH;
    for connection in &mut connections {
        let finished = if failure.is_none() { connection.finish(group_bytes, deadline) } else { Ok(()) };
        failure = failure.or(finished.err());
    }
    let outcomes = connections.iter().enumerate().map(|(index, connection)| {
        flow_outcome(format!("connection {index}"), &connection.stamper, connection.tally, None)
    });
    Ok((Outcome { flows: outcomes.collect(), failure }, schedule))
}

fn connect(flows: &TcpFlows) -> io::Result<TcpStream> {
    let stream = match flows.local {
        None => TcpStream::connect(flows.remote)?,
        Some(local) => connect_from(local, flows.remote)?,
    };
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

fn connect_from(local: SocketAddr, remote: SocketAddr) -> io::Result<TcpStream> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};
    let family = if remote.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &local)?;
    connect(&socket, &remote)?;
    Ok(TcpStream::from(socket))
}

/// Serves the connections in turn, one buffer each.
fn run(connections: &mut [Connection], group_bytes: usize, schedule: &mut Schedule) -> Result<(), String> {
    let mut turn = 0;
    while !schedule.is_over() {
        let Some(index) = next_open(connections, turn) else {
            wait_for_room(connections).map_err(during("waiting for connections"))?;
            continue;
        };
        turn = index + 1;
        let connection = &mut connections[index];
        if connection.written == connection.filled {
            let Some(batch) = schedule.next(connection.pending.len()) else { break };
            connection.filled = batch.count * group_bytes;
            connection.written = 0;
            for group in 0..batch.count {
                let bytes = &mut connection.buffer[group * group_bytes..][..group_bytes];
                connection.pending[group] = connection.stamper.stamp(bytes, batch.time_ns(group));
            }
        }
        connection.write(group_bytes)?;
    }
    Ok(())
}

/// The first connection from `turn` on, round about, that is not blocked.
fn next_open(connections: &[Connection], turn: usize) -> Option<usize> {
    let count = connections.len();
    (0..count).map(|step| (turn + step) % count).find(|index| !connections[*index].is_blocked)
}

/// Waits until one of the connections, all of them blocked, takes bytes again, or for a moment.
fn wait_for_room(connections: &mut [Connection]) -> io::Result<()> {
    let mut descriptors: Vec<PollFd<'_>> = connections
        .iter()
        .map(|connection| PollFd::from_borrowed_fd(connection.stream.as_fd(), PollFlags::OUT))
        .collect();
    match poll(&mut descriptors, Some(&stop::LOOK)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let ready: Vec<bool> = descriptors.iter().map(|descriptor| !descriptor.revents().is_empty()).collect();
    for (connection, is_ready) in connections.iter_mut().zip(ready) {
        connection.is_blocked = !is_ready;
    }
    Ok(())
}

impl Connection {
    fn new(stream: TcpStream, stamper: Stamper, layout: &Layout) -> Self {
        let groups = (BUFFER_BYTES / layout.datagram_bytes()).max(1);
        Self {
            stream,
            stamper,
            buffer: layout.template().repeat(groups),
            pending: vec![Stamped::default(); groups],
            filled: 0,
            written: 0,
            tally: Tally::default(),
            is_blocked: false,
        }
    }

    /// Writes as much as the kernel takes at once, and counts the groups of which it has taken all.
    fn write(&mut self, group_bytes: usize) -> Result<(), String> {
        match self.stream.write(&self.buffer[self.written..self.filled]) {
            Ok(bytes) => {
                let whole = self.written / group_bytes..(self.written + bytes) / group_bytes;
                self.pending[whole].iter().for_each(|stamped| self.tally.count(stamped));
                self.written += bytes;
                self.is_blocked = self.written < self.filled;
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.is_blocked = true;
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(format!("connection closed: {error}{}", self.last_words())),
        }
    }

    /// Writes what was begun, says that nothing follows and waits for the peer to close, which it does when it has read
    /// everything. A peer that keeps the connection open has read what the kernel says was acknowledged.
    fn finish(&mut self, group_bytes: usize, deadline: Instant) -> Result<(), String> {
        while self.written < self.filled {
            if Instant::now() > deadline {
                let rest = self.filled - self.written;
                return Err(format!("the peer did not read the last {rest} bytes within {} s", FINISH.as_secs()));
            }
            self.write(group_bytes)?;
            if self.is_blocked {
                wait_for_room(std::slice::from_mut(self)).map_err(during("waiting for a connection"))?;
            }
        }
        self.stream.shutdown(Shutdown::Write).map_err(during("closing a connection"))?;
        let mut discarded = [0; 4_096];
        while Instant::now() < deadline {
            match self.stream.read(&mut discarded) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(1)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(format!("closing a connection: {error}")),
            }
            if stop::is_requested() {
                break;
            }
        }
        Ok(())
    }

    /// What the peer said before it closed: the engine's error frame is text for the most part.
    fn last_words(&mut self) -> String {
        let mut bytes = [0; 1_024];
        match self.stream.read(&mut bytes) {
            Ok(count) if count > 0 => {
                let is_printable = |character: &char| matches!(character, ' '..='~');
                let text: String = String::from_utf8_lossy(&bytes[..count]).chars().filter(is_printable).collect();
                format!(", after saying {text:?}")
            }
            _ => String::new(),
        }
    }
}
