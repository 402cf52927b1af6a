//! How connections end: by the client's end of stream, by a reset, or by our goodbye.
//!
//! A stream that ends inside a frame, whoever ended it, counts that frame as found and as malformed
//! (`stream_truncated`). Whole frames that were read are published before anything ends, and what they ask for is
//! answered before the last word is said.

use rustix::net::{RecvFlags, Shutdown};

use super::super::connection::{Connection, Phase};
use super::super::control::Fault;
use super::super::scan::count_malformed;
use super::{LINGER_BYTES, LINGER_NS, Outcome, Reader, Step};
use crate::ingest::Intake;
use crate::memory::off_data_path;
use crate::metrics::{Counter, MalformedReason};
use crate::runtime::clock::Nanos;

impl Reader {
    /// The client has ended its side.
    pub(super) fn ended(&mut self, c: &mut Connection, intake: &mut Intake) -> Step {
        if c.is_inside_frame() {
            let held = c.large.as_ref().map_or(c.carry.len(), |large| large.filled);
            let end = c.position + held as u64;
            let fault = off_data_path(|| Fault::malformed(MalformedReason::StreamTruncated, end));
            self.count_truncated(c, intake);
            return self.say_goodbye(c, fault);
        }
        if c.out.is_empty() && !c.owed.is_outstanding() {
            return Step::Done(Outcome::Close);
        }
        // Only its sending side may be closed: it gets the answers it asked for.
        c.phase = Phase::Finishing;
        Step::Go
    }

    /// Nothing more is read of a connection, as the engine is going: it still gets its acknowledgements.
    pub(super) fn leave(&mut self, c: &mut Connection, intake: &mut Intake) -> Step {
        if !c.owed.is_outstanding() {
            return self.cut_off(c, intake);
        }
        self.count_truncated(c, intake);
        c.phase = Phase::Finishing;
        Step::Go
    }

    /// Waits for what its client is still to be sent, then says goodbye.
    pub(super) fn finish(&mut self, c: &mut Connection, intake: &mut Intake) -> Step {
        self.flush(c, intake);
        if c.owed.is_outstanding() {
            return Step::Done(Outcome::Idle);
        }
        off_data_path(|| c.answer_goodbye());
        self.start_closing(c);
        Step::Go
    }

    /// Ends a connection whose client leaves its acknowledgements unread.
    #[cold]
    pub(in super::super) fn acks_unread(&mut self, c: &mut Connection, intake: &mut Intake, now: Nanos) {
        self.now = now;
        intake.counters.add(Counter::TCP_ACKS_UNREAD, 1);
        self.count_truncated(c, intake);
        off_data_path(|| {
            let answers = std::mem::take(&mut c.out);
            c.out.extend_from_slice(self.acks.rest_of_frame(&c.owed));
            c.out.extend_from_slice(&answers);
        });
        self.acks.give_up(&mut c.owed, &mut intake.counters);
        let patience = self.acks.patience_ns / 1_000_000;
        let message = off_data_path(|| format!("acknowledgements were left unread for {patience} ms"));
        self.say_goodbye(c, Fault { code: "acks_unread", message, at_byte: c.position });
    }

    /// Ends a connection without a word: it was reset, or the engine is going.
    pub(super) fn cut_off(&mut self, c: &mut Connection, intake: &mut Intake) -> Step {
        self.count_truncated(c, intake);
        Step::Done(Outcome::Close)
    }

    /// Counts the frame that will not come to its end.
    pub(super) fn count_truncated(&mut self, c: &mut Connection, intake: &mut Intake) {
        if c.is_inside_frame() {
            count_malformed(&mut intake.counters, MalformedReason::StreamTruncated);
        }
        self.release(c);
    }

    /// Gives back what the connection holds of the agent's memory.
    pub(in crate::ingest::tcp) fn release(&mut self, c: &mut Connection) {
        self.carries.clear(&mut c.carry);
        if let Some(large) = c.large.take() {
            self.large.give_back(large.slot);
        }
        (c.needed, c.whole) = (0, 0);
        (c.large_deadline, c.waits_for) = (None, None);
        c.carry_starved = false;
    }

    /// The one error frame that ends a stream; the caller has counted.
    pub(super) fn say_goodbye(&mut self, c: &mut Connection, fault: Fault) -> Step {
        self.release(c);
        off_data_path(|| {
            c.goodbye.clear();
            fault.encode(&mut c.goodbye, true);
            drop(fault);
        });
        c.phase = Phase::Finishing;
        Step::Go
    }

    fn start_closing(&mut self, c: &mut Connection) {
        let deadline = self.now + LINGER_NS;
        c.phase = Phase::Closing { deadline, discard_left: LINGER_BYTES, shut: false };
        // Whether the peer has ended must be found out anew.
        c.readable = true;
    }

    /// Closes a connection that was silent for too long.
    pub(in super::super) fn expire(&mut self, c: &mut Connection, intake: &mut Intake, now: Nanos) {
        let at_byte = c.position;
        intake.counters.add(Counter::TCP_CONNECTIONS_IDLE, 1);
        self.count_truncated(c, intake);
        let seconds = now.saturating_sub(c.last_active) as f64 / 1e9;
        let message = format!("nothing was received for {seconds:.1} s");
        self.now = now;
        self.say_goodbye(c, Fault { code: "idle", message, at_byte });
    }

    /// Greets one that is over the limit with its end.
    pub(in super::super) fn refuse(&mut self, c: &mut Connection, fault: Fault, now: Nanos) {
        self.now = now;
        self.say_goodbye(c, fault);
    }

    /// Leaves nothing of a connection that is closed without being served.
    pub(in super::super) fn forget(&mut self, c: &mut Connection, intake: &mut Intake) {
        self.count_truncated(c, intake);
        self.acks.give_up(&mut c.owed, &mut intake.counters);
        if !c.refused {
            intake.counters.add(Counter::TCP_CONNECTIONS_CLOSED, 1);
        }
    }

    /// Sends what is left, ends our side, and throws away what still comes.
    pub(super) fn linger(&mut self, c: &mut Connection, left: &mut usize) -> Step {
        c.flush();
        let Phase::Closing { deadline, mut discard_left, shut } = c.phase else { return Step::Go };
        if !c.out.is_empty() {
            return Step::Done(if c.drain_left.is_some() { Outcome::Close } else { Outcome::Idle });
        }
        if !shut && rustix::net::shutdown(&c.socket, Shutdown::Write).is_err() {
            return Step::Done(Outcome::Close);
        }
        // Nobody waits once the engine is going, but for clients that may have acknowledgements under way.
        let outcome = if c.drain_left.is_some() && !c.owed.has_asked() {
            Some(Outcome::Close)
        } else if c.readable {
            match c.receive(&mut self.discard, RecvFlags::TRUNC) {
                Ok(0) => Some(Outcome::Close),
                Ok(count) => {
                    *left -= count.min(*left);
                    discard_left = discard_left.saturating_sub(count);
                    // A reset takes along what the client's side has no room for yet: acknowledgements get all the time there is.
                    (discard_left == 0 && !c.owed.has_asked()).then_some(Outcome::Close)
                }
                Err(rustix::io::Errno::AGAIN) => {
                    c.readable = false;
                    Some(Outcome::Idle)
                }
                Err(_) => Some(Outcome::Close),
            }
        } else {
            Some(Outcome::Idle)
        };
        c.phase = Phase::Closing { deadline, discard_left, shut: true };
        outcome.map_or(Step::Go, Step::Done)
    }
}
