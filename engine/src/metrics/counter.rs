//! Every counter there is, with its stable name: subject, then what happened, then unit.

macro_rules! named {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $name { $($(#[$doc])* $variant,)+ }

        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

named! {
    /// Why a frame, and with it its datagram or stream, was refused.
    MalformedReason {
        /// The length field counts fewer bytes than the fixed header has.
        LengthShort = "length_short",
        /// The length field points past the end of the datagram.
        LengthBeyond = "length_beyond",
        /// The length field is above the configured frame limit.
        LengthLimit = "length_limit",
        TopicEmpty = "topic_empty",
        /// The topic would reach past the frame's end.
        TopicBeyond = "topic_beyond",
        TopicLimit = "topic_limit",
        TopicUtf8 = "topic_utf8",
        TopicNul = "topic_nul",
        /// `+` or `#` as a level of a published topic.
        TopicWildcard = "topic_wildcard",
        /// Flag 0x10 or 0x08.
        ReservedFlag = "reserved_flag",
        /// A flag announces an id or a time for which the frame has no room.
        MissingField = "missing_field",
        /// `$esc/` over UDP, or an unknown `$esc/` topic over TCP.
        ReservedTopic = "reserved_topic",
        /// One to three bytes after the last frame of a datagram: no length field fits.
        TrailingBytes = "trailing_bytes",
        EmptyDatagram = "empty_datagram",
        /// A steered packet that is not one whole UDP datagram where it lies; the program steers none such.
        PacketHeaders = "packet_headers",
        /// A TCP stream ended inside a frame.
        StreamTruncated = "stream_truncated",
        /// A control frame whose JSON is not what its topic asks for.
        ControlPayload = "control_payload",
    }
}

named! {
    /// Why an event went to the dead letter queue.
    DeadLetterReason {
        Rejected = "rejected",
        RetriesExhausted = "retries_exhausted",
        RetryOverflow = "retry_overflow",
        HandlerPanic = "handler_panic",
        /// Its worker's link, the class's share of frames and the spill pool were all full.
        LinkFull = "link_full",
        /// Batch or low priority while the state was DROPPING.
        ShedDropping = "shed_dropping",
        /// Anything but critical while the state was EMERGENCY.
        ShedEmergency = "shed_emergency",
        /// Nobody of a group has done it. The event was processed, and stays so in the ledger: only the queue counts it.
        Consumer = "consumer",
    }
}

impl DeadLetterReason {
    /// Its number on disk and in acknowledgements: never given to another reason. 0 is none.
    pub const fn code(self) -> u8 {
        match self {
            Self::Rejected => 1,
            Self::RetriesExhausted => 2,
            Self::RetryOverflow => 3,
            Self::HandlerPanic => 4,
            Self::LinkFull => 5,
            Self::ShedDropping => 6,
            Self::ShedEmergency => 7,
            Self::Consumer => 8,
        }
    }

    /// Shed by load, not refused on its merits: these share a write budget.
    pub const fn is_shed(self) -> bool {
        matches!(self, Self::LinkFull | Self::ShedDropping | Self::ShedEmergency)
    }
}

named! {
    /// Why an event could not even be dead-lettered.
    LostReason {
        /// Shed above the dead letter queue's budget.
        ShedOverBudget = "shed_over_budget",
        /// The link to the dead letter queue had no room.
        DeadLetterLinkFull = "dead_letter_link_full",
        /// The disk took no dead letters, and what waits for it was all that may.
        DeadLetterDisk = "dead_letter_disk",
        /// No segment of the event log is as large. A configuration that would let that happen is refused.
        LogRefused = "log_refused",
        /// The event log could not be written up to the end of a drain.
        LogDisk = "log_disk",
    }
}

named! {
    Scalar {
        DatagramsConsumed = "datagrams_consumed",
        /// Frames the rx ring named that the kernel was never given: believed in nothing, counted, ignored.
        RxDescriptorInvalid = "rx_descriptor_invalid",
        DatagramsSocketReceived = "datagrams_socket_received",
        DatagramsSocketDropped = "datagrams_socket_dropped",
        /// Those of the dropped that came while the socket had the filter of a pause or a drain. The kernel has one figure
        /// for what a filter rejects and what finds no room; the filter decides first, so while it is there all are its
        /// doing, but for what was dropped between the last reading and its coming.
        DatagramsSocketRefused = "datagrams_socket_refused",
        DatagramsTruncated = "datagrams_truncated",
        DatagramsParsed = "datagrams_parsed",
        BytesReceived = "bytes_received",
        AckFlagIgnored = "ack_flag_ignored",
        TcpFramesFound = "tcp_frames_found",
        TcpFramesAccepted = "tcp_frames_accepted",
        TcpFramesControl = "tcp_frames_control",
        TcpConnectionsOpened = "tcp_connections_opened",
        TcpConnectionsClosed = "tcp_connections_closed",
        TcpConnectionsRefused = "tcp_connections_refused",
        /// Connections closed because no large slot became free for a frame they had announced.
        TcpLargeFrameTimeouts = "tcp_large_frame_timeouts",
        /// Connections closed because they had a large slot and did not go on filling it.
        TcpLargeFramesStalled = "tcp_large_frames_stalled",
        TcpCreditStalls = "tcp_credit_stalls",
        /// Times a connection began to wait because the class of its next frame had its share of slots or credits.
        TcpClassWaits = "tcp_class_waits",
        /// Connections closed because they left acknowledgements unread for too long.
        TcpAcksUnread = "tcp_acks_unread",
        /// Connections closed because nothing had come from them for `tcp.idle_timeout_ms`.
        TcpConnectionsIdle = "tcp_connections_idle",
        AcksAsked = "acks_asked",
        /// Given to the kernel whole.
        AcksSent = "acks_sent",
        /// Their connection was closed, or given up, before.
        AcksUndeliverable = "acks_undeliverable",
        ReassemblyCopiedBytes = "reassembly_copied_bytes",
        EventsAccepted = "events_accepted",
        EventsReplayed = "events_replayed",
        /// Failed claims of the queue to the dispatcher: the agent kept its position.
        MpscBackpressured = "mpsc_backpressured",
        NeedWakeupFill = "need_wakeup_fill",
        NeedWakeupRx = "need_wakeup_rx",
        KernelRxDropped = "kernel_rx_dropped",
        KernelRxRingFull = "kernel_rx_ring_full",
        KernelFillRingEmpty = "kernel_fill_ring_empty",
        KernelRedirectFailed = "kernel_redirect_failed",
        DispatcherTaken = "dispatcher_taken",
        DispatchedRealtime = "dispatched_realtime",
        DispatchedTransactional = "dispatched_transactional",
        DispatchedBatch = "dispatched_batch",
        DispatcherDeadLettered = "dispatcher_dead_lettered",
        DispatcherLost = "dispatcher_lost",
        CopiedOut = "copied_out",
        TakenRealtime = "taken_realtime",
        TakenTransactional = "taken_transactional",
        TakenBatch = "taken_batch",
        ProcessedRealtime = "processed_realtime",
        ProcessedTransactional = "processed_transactional",
        ProcessedBatch = "processed_batch",
        Duplicate = "duplicate",
        HandlerRetries = "handler_retries",
        HandlerPanics = "handler_panics",
        /// Not an outcome: events that had to wait behind one of their topic that waits for a retry.
        EventsHeldBack = "events_held_back",
        /// Windows closed because they had as many events, or bytes, as they may have.
        WindowsClosedByCount = "windows_closed_by_count",
        WindowsClosedByBytes = "windows_closed_by_bytes",
        /// Because their first event was old enough.
        WindowsClosedByTime = "windows_closed_by_time",
        /// Early, because another event found no room.
        WindowsClosedByMemory = "windows_closed_by_memory",
        WindowsClosedByDrain = "windows_closed_by_drain",
        /// Not an outcome: handled events whose payload bytes the default handler has read.
        HandledBytes = "handled_bytes",
        LogRecordsAppended = "log_records_appended",
        LogBytesWritten = "log_bytes_written",
        LogSyncs = "log_syncs",
        LogFailures = "log_failures",
        LogSegmentsBegun = "log_segments_begun",
        /// Given up at their last durable record after a failure.
        LogSegmentsAbandoned = "log_segments_abandoned",
        LogSegmentsRemoved = "log_segments_removed",
        DeadLettersReceived = "dead_letters_received",
        DeadLettersEvicted = "dead_letters_evicted",
        DeadLettersPurged = "dead_letters_purged",
        DeadLettersReplayed = "dead_letters_replayed",
        SubscriptionsOpened = "subscriptions_opened",
        SubscriptionsClosed = "subscriptions_closed",
        /// Told why.
        SubscriptionRequestsRefused = "subscription_requests_refused",
        /// Times that a subscription did not keep up with the end of the log, and went on reading by itself.
        SubscriptionsFellBehind = "subscriptions_fell_behind",
        /// Connections closed because they left live events unread and had asked for that, or left answers unread.
        SubscribersDisconnected = "subscribers_disconnected",
        /// Events, once for each subscription that they were for.
        SubscriptionMatched = "subscription_matched",
        /// Given once more, because they were not done.
        SubscriptionRedelivered = "subscription_redelivered",
        /// Given to the kernel whole.
        SubscriptionDelivered = "subscription_delivered",
        /// Not given, because the subscriber does not read,
        SubscriptionDroppedSlow = "subscription_dropped_slow",
        /// or has gone.
        SubscriptionDroppedGone = "subscription_dropped_gone",
        /// Live events that somebody may have wanted and for which the sender had no room: in no other of these counters.
        SubscriptionOverflowed = "subscription_overflowed",
        /// Durable subscriptions and groups that were not made, because there were as many as there may be.
        SubscriptionNamesRefused = "subscription_names_refused",
        /// Records that nobody of a group has done in as many times as it may take.
        SubscriptionDeadLettered = "subscription_dead_lettered",
        GapMissing = "gap_missing",
        GapLate = "gap_late",
        GapRepeated = "gap_repeated",
    }
}

/// A counter: one of the plain ones, or one of a family with a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter(u8);

const SCALARS: usize = Scalar::ALL.len();
const MALFORMED: usize = MalformedReason::ALL.len();
const DEAD: usize = DeadLetterReason::ALL.len();

macro_rules! scalars {
    ($($constant:ident = $variant:ident;)+) => {
        #[allow(missing_docs)]
        impl Counter { $(pub const $constant: Self = Self(Scalar::$variant as u8);)+ }
    };
}

scalars! {
    DATAGRAMS_CONSUMED = DatagramsConsumed;
    RX_DESCRIPTOR_INVALID = RxDescriptorInvalid;
    DATAGRAMS_SOCKET_RECEIVED = DatagramsSocketReceived;
    DATAGRAMS_SOCKET_DROPPED = DatagramsSocketDropped;
    DATAGRAMS_SOCKET_REFUSED = DatagramsSocketRefused;
    DATAGRAMS_TRUNCATED = DatagramsTruncated;
    DATAGRAMS_PARSED = DatagramsParsed;
    BYTES_RECEIVED = BytesReceived;
    ACK_FLAG_IGNORED = AckFlagIgnored;
    TCP_FRAMES_FOUND = TcpFramesFound;
    TCP_FRAMES_ACCEPTED = TcpFramesAccepted;
    TCP_FRAMES_CONTROL = TcpFramesControl;
    TCP_CONNECTIONS_OPENED = TcpConnectionsOpened;
    TCP_CONNECTIONS_CLOSED = TcpConnectionsClosed;
    TCP_CONNECTIONS_REFUSED = TcpConnectionsRefused;
    TCP_LARGE_FRAME_TIMEOUTS = TcpLargeFrameTimeouts;
    TCP_LARGE_FRAMES_STALLED = TcpLargeFramesStalled;
    TCP_CREDIT_STALLS = TcpCreditStalls;
    TCP_CLASS_WAITS = TcpClassWaits;
    TCP_ACKS_UNREAD = TcpAcksUnread;
    TCP_CONNECTIONS_IDLE = TcpConnectionsIdle;
    ACKS_ASKED = AcksAsked;
    ACKS_SENT = AcksSent;
    ACKS_UNDELIVERABLE = AcksUndeliverable;
    REASSEMBLY_COPIED_BYTES = ReassemblyCopiedBytes;
    EVENTS_ACCEPTED = EventsAccepted;
    EVENTS_REPLAYED = EventsReplayed;
    MPSC_BACKPRESSURED = MpscBackpressured;
    NEED_WAKEUP_FILL = NeedWakeupFill;
    NEED_WAKEUP_RX = NeedWakeupRx;
    KERNEL_RX_DROPPED = KernelRxDropped;
    KERNEL_RX_RING_FULL = KernelRxRingFull;
    KERNEL_FILL_RING_EMPTY = KernelFillRingEmpty;
    KERNEL_REDIRECT_FAILED = KernelRedirectFailed;
    DISPATCHER_TAKEN = DispatcherTaken;
    DISPATCHED_REALTIME = DispatchedRealtime;
    DISPATCHER_DEAD_LETTERED = DispatcherDeadLettered;
    DISPATCHER_LOST = DispatcherLost;
    COPIED_OUT = CopiedOut;
    DUPLICATE = Duplicate;
    HANDLER_RETRIES = HandlerRetries;
    HANDLER_PANICS = HandlerPanics;
    EVENTS_HELD_BACK = EventsHeldBack;
    WINDOWS_CLOSED_BY_COUNT = WindowsClosedByCount;
    WINDOWS_CLOSED_BY_BYTES = WindowsClosedByBytes;
    WINDOWS_CLOSED_BY_TIME = WindowsClosedByTime;
    WINDOWS_CLOSED_BY_MEMORY = WindowsClosedByMemory;
    WINDOWS_CLOSED_BY_DRAIN = WindowsClosedByDrain;
    HANDLED_BYTES = HandledBytes;
    LOG_RECORDS_APPENDED = LogRecordsAppended;
    LOG_BYTES_WRITTEN = LogBytesWritten;
    LOG_SYNCS = LogSyncs;
    LOG_FAILURES = LogFailures;
    LOG_SEGMENTS_BEGUN = LogSegmentsBegun;
    LOG_SEGMENTS_ABANDONED = LogSegmentsAbandoned;
    LOG_SEGMENTS_REMOVED = LogSegmentsRemoved;
    DEAD_LETTERS_RECEIVED = DeadLettersReceived;
    DEAD_LETTERS_EVICTED = DeadLettersEvicted;
    DEAD_LETTERS_PURGED = DeadLettersPurged;
    DEAD_LETTERS_REPLAYED = DeadLettersReplayed;
    SUBSCRIPTIONS_OPENED = SubscriptionsOpened;
    SUBSCRIPTIONS_CLOSED = SubscriptionsClosed;
    SUBSCRIPTION_REQUESTS_REFUSED = SubscriptionRequestsRefused;
    SUBSCRIPTIONS_FELL_BEHIND = SubscriptionsFellBehind;
    SUBSCRIBERS_DISCONNECTED = SubscribersDisconnected;
    SUBSCRIPTION_MATCHED = SubscriptionMatched;
    SUBSCRIPTION_REDELIVERED = SubscriptionRedelivered;
    SUBSCRIPTION_DELIVERED = SubscriptionDelivered;
    SUBSCRIPTION_DROPPED_SLOW = SubscriptionDroppedSlow;
    SUBSCRIPTION_DROPPED_GONE = SubscriptionDroppedGone;
    SUBSCRIPTION_OVERFLOWED = SubscriptionOverflowed;
    SUBSCRIPTION_NAMES_REFUSED = SubscriptionNamesRefused;
    SUBSCRIPTION_DEAD_LETTERED = SubscriptionDeadLettered;
    GAP_MISSING = GapMissing;
    GAP_LATE = GapLate;
    GAP_REPEATED = GapRepeated;
}

impl Counter {
    pub const COUNT: usize = SCALARS + 2 * MALFORMED + DEAD + LostReason::ALL.len();

    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    pub const fn dispatched(class: crate::frame::Class) -> Self {
        Self(Scalar::DispatchedRealtime as u8 + class as u8)
    }

    pub const fn taken(class: crate::frame::Class) -> Self {
        Self(Scalar::TakenRealtime as u8 + class as u8)
    }

    pub const fn processed(class: crate::frame::Class) -> Self {
        Self(Scalar::ProcessedRealtime as u8 + class as u8)
    }

    pub const fn datagram_malformed(reason: MalformedReason) -> Self {
        Self(SCALARS as u8 + reason as u8)
    }

    pub const fn tcp_malformed(reason: MalformedReason) -> Self {
        Self((SCALARS + MALFORMED) as u8 + reason as u8)
    }

    pub const fn dead_lettered(reason: DeadLetterReason) -> Self {
        Self((SCALARS + 2 * MALFORMED) as u8 + reason as u8)
    }

    pub const fn lost(reason: LostReason) -> Self {
        Self((SCALARS + 2 * MALFORMED + DEAD) as u8 + reason as u8)
    }

    /// All counters with their exported names and, for families, the reason.
    pub fn all() -> impl Iterator<Item = (Self, &'static str, Option<&'static str>)> {
        let scalars = Scalar::ALL.iter().map(|s| (Self(*s as u8), s.name(), None));
        let datagrams =
            MalformedReason::ALL.iter().map(|r| (Self::datagram_malformed(*r), "datagrams_malformed", Some(r.name())));
        let tcp =
            MalformedReason::ALL.iter().map(|r| (Self::tcp_malformed(*r), "tcp_frames_malformed", Some(r.name())));
        let dead =
            DeadLetterReason::ALL.iter().map(|r| (Self::dead_lettered(*r), "events_dead_lettered", Some(r.name())));
        let lost = LostReason::ALL.iter().map(|r| (Self::lost(*r), "events_lost", Some(r.name())));
        scalars.chain(datagrams).chain(tcp).chain(dead).chain(lost)
    }
}

const _: () = assert!(Counter::COUNT <= u8::MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_counter_has_a_place_and_a_name_of_its_own() {
        let places: std::collections::BTreeSet<_> = Counter::all().map(|(c, ..)| c.index()).collect();
        assert_eq!(places, (0..Counter::COUNT).collect());
        let names: std::collections::BTreeSet<_> = Counter::all().map(|(_, name, reason)| (name, reason)).collect();
        assert_eq!(names.len(), Counter::COUNT);
    }
}
