//! What segments are made of: a header, then records, then zeros or the end of the file. All integers are big-endian.
//!
//! ```text
//!   segment header, 128 bytes                       record
//!     8   magic                                       u32 length     of what follows the checksum; a multiple of 8, 0: end
//!     u32 version                                     u32 checksum   see below
//!     u32 epoch                                       u64 offset
//!     u64 number         of the segment               u64 time       nanoseconds since the UNIX epoch
//!     u64 base offset    of its first record          u32 epoch      the segment's
//!     u64 created        ns since the UNIX epoch      u8  class
//!     u32 salt                                        u8  kind
//!     u8  length of the stream's name                 u8  reason     0, or why an event was dead-lettered
//!     79  the stream's name                           u8  flags      which of the following are there
//!     u32 checksum       CRC32C of the above          [u64 arrival]
//!                                                     [16 reference: u64 offset, u32 epoch, u8 queue, 3 zeros]
//!                                                     frame, as it was received, its length field included
//!                                                     zeros, up to a multiple of 8
//! ```
//!
//! A record's checksum is the CRC32C of what is behind the head, the fixed fields from the offset to the flags, combined by exclusive or with
//! the segment's salt, and continued over the head.
//!
//! Records begin at multiples of 8, so that behind a damaged one the next can be looked for. The salt is random: bytes in a
//! payload that look like a record are never taken for one, as no sender can know what checksum they would need. It stands
//! in the header and in the file's name, as does all that a damaged header would hide.

mod header;
mod reason;
mod record;

pub use header::{HEADER_BYTES, STREAM_NAME_BYTES_MAX, SegmentHeader, SegmentName};
pub use reason::{parse_reason, reason_name, reason_of, reason_of_letter};
pub use record::{
    Kind, LetterQueue, PREFIX_BYTES, RECORD_ALIGN, RECORD_BYTES_MAX, RECORD_BYTES_MIN, Record, RecordView, Reference,
    encode, encoded_bytes, event_bytes,
};

pub(super) use record::{HEAD_BYTES, Place, Prefix, checksum, encode_unplaced, place, sum_up, topic_of};
