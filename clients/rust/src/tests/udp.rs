//! Frames are packed into datagrams that are neither too large nor late.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use super::fake::PATIENCE;
use crate::wire::{Decoder, Frame};
use crate::{Error, Message, UdpOptions, UdpPublisher};

const NEVER: Duration = Duration::from_secs(3600);

fn receiver() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn publisher(to: &UdpSocket, datagram_bytes: usize, linger: Duration) -> UdpPublisher {
    let address = to.local_addr().unwrap().to_string();
    UdpPublisher::with_options(&address, UdpOptions { datagram_bytes, linger }).unwrap()
}

fn receive(socket: &UdpSocket) -> (usize, Vec<Frame>) {
    let mut datagram = vec![0; 1 << 16];
    let count = socket.recv(&mut datagram).unwrap();
    (count, Decoder::default().feed(&datagram[..count]).unwrap())
}

#[test]
fn they_are_filled_and_not_overfilled() {
    let socket = receiver();
    let publisher = publisher(&socket, 200, NEVER);
    for number in 0..10_u64 {
        publisher.publish(Message::new("t", &number.to_be_bytes())).unwrap();
    }
    drop(publisher);
    // A frame of 40 bytes, five of which fit exactly.
    let mut frames = Vec::new();
    for _ in 0..2 {
        let (count, packed) = receive(&socket);
        assert_eq!((count, packed.len()), (200, 5));
        frames.extend(packed);
    }
    for (number, frame) in (0..10_u64).zip(&frames) {
        let number = number.to_be_bytes();
        assert_eq!((&frame.payload[..], &frame.id.unwrap()[8..]), (&number[..], &number[..]));
    }
}

#[test]
fn a_large_frame_goes_alone() {
    let socket = receiver();
    let publisher = publisher(&socket, 200, NEVER);
    for size in [1, 5000, 1] {
        publisher.publish(Message::new("t", &vec![0; size])).unwrap();
    }
    assert!(matches!(publisher.publish(Message::new("t", &vec![0; 65_507])), Err(Error::Usage(_))));
    drop(publisher);
    for size in [1, 5000, 1] {
        let (_, packed) = receive(&socket);
        assert_eq!(packed.iter().map(|frame| frame.payload.len()).collect::<Vec<_>>(), [size]);
    }
}

#[test]
fn flush_sends_at_once_and_linger_in_time() {
    let socket = receiver();
    let patient = publisher(&socket, 1000, NEVER);
    patient.publish(Message::new("t", "1")).unwrap();
    patient.flush().unwrap();
    assert_eq!(receive(&socket).1.len(), 1);
    let linger = Duration::from_millis(20);
    let hasty = publisher(&socket, 1000, linger);
    let begun = Instant::now();
    hasty.publish(Message::new("t", "1")).unwrap();
    hasty.publish(Message::new("t", "2")).unwrap();
    assert_eq!(receive(&socket).1.len(), 2);
    assert!(begun.elapsed() >= linger);
    hasty.publish(Message::new("t", "3")).unwrap();
    assert_eq!(receive(&socket).1.len(), 1);
}

#[test]
fn that_nobody_listens_is_no_error_and_loses_nothing_later() {
    let socket = receiver();
    let publisher = publisher(&socket, 1000, NEVER);
    let address = socket.local_addr().unwrap();
    drop(socket);
    publisher.publish(Message::new("t", "lost")).unwrap();
    publisher.flush().unwrap();
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    publisher.publish(Message::new("t", "heard")).unwrap();
    publisher.flush().unwrap();
    assert_eq!(receive(&socket).1[0].payload, b"heard");
}
