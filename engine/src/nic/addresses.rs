//! Follows the host's own addresses and the fate of the interface.
//!
//! - **Thread**: control; it waits on the descriptor among its others. **In**: rtnetlink notifications. **Out**: events,
//!   and the set of addresses for the steering program.
//! - **Overload**: notifications that the kernel had to drop (ENOBUFS) are made up for by asking for everything.
//! - **Invariant**: after each `poll` the set is what the kernel had said by then; it only ever lags.
//!
//! All addresses of the network namespace count, not only the interface's: Linux takes a packet for any of its
//! addresses on any interface, and a steered port must not behave otherwise. Loopback addresses are left out: the
//! kernel drops packets that come for them from outside, and so a steered one must not come in either.
//!
//! Deleting an interface gives readers of its AF_XDP sockets no error, only silence: this is where it is noticed.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SocketFlags};

use super::netlink::{self, Message, Request, attributes, messages, u32_at};

/// Bytes of `struct ifaddrmsg` before its attributes.
const ADDRESS_HEADER_BYTES: usize = 8;
/// Addresses another host may own (duplicate detection not over, or failed); the kernel announces them again later.
const NOT_YET_OURS: u32 = libc::IFA_F_TENTATIVE | libc::IFA_F_DADFAILED;

/// What happened since the last look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetEvent {
    /// [`NetWatch::addresses`] is different now.
    AddressesChanged,
    /// The interface is down; it may come back, and its sockets and program stay.
    LinkDown,
    LinkUp,
    /// The interface is gone, and with it the program and whatever its sockets could ever receive.
    LinkRemoved,
}

/// A netlink socket and what it has said so far.
pub struct NetWatch {
    socket: OwnedFd,
    interface_index: u32,
    addresses: Addresses,
    link: Link,
    buffer: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Up,
    Down,
    Removed,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Addresses(BTreeSet<(u32, IpAddr)>);

impl NetWatch {
    /// Starts to follow. Notifications are subscribed to before the first look, so that nothing falls between.
    pub fn new(interface_index: u32) -> io::Result<Self> {
        let groups = libc::RTMGRP_LINK | libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR;
        let socket = netlink::open(groups, SocketFlags::NONBLOCK)?;
        let buffer = vec![0; netlink::BUFFER_BYTES];
        let mut watch = Self { socket, interface_index, addresses: Addresses::default(), link: Link::Up, buffer };
        watch.look()?;
        Ok(watch)
    }

    /// The host's addresses, without loopback, in order.
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        self.addresses.0.iter().map(|(_, address)| *address).collect()
    }

    pub fn link_is_removed(&self) -> bool {
        self.link == Link::Removed
    }

    /// Reads what the kernel has said; never waits.
    pub fn poll(&mut self) -> io::Result<Vec<NetEvent>> {
        let (addresses, link) = (self.addresses.clone(), self.link);
        let mut is_incomplete = false;
        loop {
            match rustix::net::recv(&self.socket, &mut self.buffer[..], RecvFlags::empty()) {
                Ok((received, _)) => {
                    for message in messages(&self.buffer[..received]) {
                        self.addresses.apply(&message);
                        self.link = link_after(self.link, self.interface_index, &message);
                    }
                }
                // What was queued is read to its end first: applied after the look, it would undo newer changes whose
                // notifications are the ones that were dropped.
                Err(Errno::AGAIN) if is_incomplete => {
                    self.look()?;
                    is_incomplete = false;
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(Errno::NOBUFS) => is_incomplete = true,
                Err(error) => return Err(error.into()),
            }
        }
        let mut events = Vec::new();
        if self.addresses != addresses {
            events.push(NetEvent::AddressesChanged);
        }
        if self.link != link {
            events.push(match self.link {
                Link::Up => NetEvent::LinkUp,
                Link::Down => NetEvent::LinkDown,
                Link::Removed => NetEvent::LinkRemoved,
            });
        }
        Ok(events)
    }

    /// Asks for everything.
    fn look(&mut self) -> io::Result<()> {
        let mut addresses = Addresses::default();
        let request = Request::new(libc::RTM_GETADDR, libc::NLM_F_DUMP).all_addresses();
        netlink::ask(request, |message| addresses.apply(&message))?;
        self.addresses = addresses;
        let mut link = Link::Removed;
        let request = Request::new(libc::RTM_GETLINK, 0).link(self.interface_index);
        match netlink::ask(request, |message| link = link_after(Link::Up, self.interface_index, &message)) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
            other => other?,
        }
        self.link = link;
        Ok(())
    }
}

impl AsFd for NetWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Addresses {
    fn apply(&mut self, message: &Message<'_>) {
        let Some((index, address, flags)) = read_address(message) else { return };
        if message.kind == libc::RTM_NEWADDR && flags & NOT_YET_OURS == 0 && !address.is_loopback() {
            self.0.insert((index, address));
        } else {
            self.0.remove(&(index, address));
        }
    }
}

/// Interface, address and flags of an address message.
fn read_address(message: &Message<'_>) -> Option<(u32, IpAddr, u32)> {
    if message.kind != libc::RTM_NEWADDR && message.kind != libc::RTM_DELADDR {
        return None;
    }
    let mut flags = u32::from(*message.body.get(2)?);
    let index = u32_at(message.body, 4)?;
    let (mut local, mut address) = (None, None);
    for (kind, content) in attributes(message.body.get(ADDRESS_HEADER_BYTES..)?) {
        match kind {
            // On point-to-point links IFA_ADDRESS is the other end; IFA_LOCAL, where given, is always ours.
            libc::IFA_LOCAL => local = read_ip(content),
            libc::IFA_ADDRESS => address = read_ip(content),
            // All 32 bits; the header has room for eight.
            libc::IFA_FLAGS => flags = u32_at(content, 0)?,
            _ => {}
        }
    }
    Some((index, local.or(address)?, flags))
}

fn read_ip(content: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(content) {
        return Some(IpAddr::from(v4));
    }
    <[u8; 16]>::try_from(content).ok().map(IpAddr::from)
}

fn link_after(before: Link, index: u32, message: &Message<'_>) -> Link {
    if u32_at(message.body, 4) != Some(index) {
        return before;
    }
    match (message.kind, u32_at(message.body, 8)) {
        // Also sent, with the family of bridges, when a port leaves its bridge; the interface then still exists.
        (libc::RTM_DELLINK, _) if message.body.first() == Some(&(libc::AF_UNSPEC as u8)) => Link::Removed,
        (libc::RTM_NEWLINK, Some(flags)) if flags & libc::IFF_UP as u32 != 0 => Link::Up,
        (libc::RTM_NEWLINK, Some(_)) => Link::Down,
        _ => before,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, content: &[u8]) -> Vec<u8> {
        let mut bytes = [&(4 + content.len() as u16).to_ne_bytes()[..], &kind.to_ne_bytes(), content].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn address_body(index: u32, attributes: &[Vec<u8>]) -> Vec<u8> {
        [&[2, 24, 0, 0][..], &index.to_ne_bytes(), &attributes.concat()].concat()
    }

    fn link_body(family: i32, index: u32, flags: u32) -> Vec<u8> {
        [&[family as u8, 0, 0, 0][..], &index.to_ne_bytes(), &flags.to_ne_bytes(), &[0; 4]].concat()
    }

    const NEW: u16 = libc::RTM_NEWADDR;
    const DEL: u16 = libc::RTM_DELADDR;

    #[test]
    fn an_address_on_two_interfaces_stays_until_both_have_lost_it() {
        let mut addresses = Addresses::default();
        let first = address_body(3, &[attribute(libc::IFA_ADDRESS, &[198, 18, 0, 1])]);
        let second = address_body(4, &[attribute(libc::IFA_ADDRESS, &[198, 18, 0, 1])]);
        addresses.apply(&Message { kind: NEW, body: &first });
        addresses.apply(&Message { kind: NEW, body: &second });
        addresses.apply(&Message { kind: DEL, body: &first });
        assert_eq!(addresses.0.len(), 1);
        addresses.apply(&Message { kind: DEL, body: &second });
        assert!(addresses.0.is_empty());
    }

    #[test]
    fn the_local_end_is_ours_and_loopback_and_tentative_addresses_are_not() {
        let mut addresses = Addresses::default();
        let point_to_point = [attribute(libc::IFA_ADDRESS, &[10, 0, 0, 9]), attribute(libc::IFA_LOCAL, &[10, 0, 0, 1])];
        addresses.apply(&Message { kind: NEW, body: &address_body(3, &point_to_point) });
        let loopback = address_body(1, &[attribute(libc::IFA_LOCAL, &[127, 0, 0, 1])]);
        addresses.apply(&Message { kind: NEW, body: &loopback });
        let v6 = "fd00::1".parse::<std::net::Ipv6Addr>().unwrap();
        let tentative = [
            attribute(libc::IFA_ADDRESS, &v6.octets()),
            attribute(libc::IFA_FLAGS, &libc::IFA_F_TENTATIVE.to_ne_bytes()),
        ];
        addresses.apply(&Message { kind: NEW, body: &address_body(3, &tentative) });
        assert_eq!(addresses.0, BTreeSet::from([(3, IpAddr::from([10, 0, 0, 1]))]));
        addresses.apply(&Message { kind: NEW, body: &address_body(3, &tentative[..1]) });
        assert!(addresses.0.contains(&(3, v6.into())));
    }

    #[test]
    fn cut_messages_change_nothing() {
        let body = address_body(3, &[attribute(libc::IFA_ADDRESS, &[198, 18, 0, 1])]);
        for length in 0..body.len() {
            let mut addresses = Addresses::default();
            addresses.apply(&Message { kind: NEW, body: &body[..length] });
            assert!(addresses.0.is_empty(), "cut at {length}");
        }
        let odd = address_body(3, &[attribute(libc::IFA_ADDRESS, &[1, 2, 3])]);
        assert_eq!(read_address(&Message { kind: NEW, body: &odd }), None);
    }

    #[test]
    fn only_our_own_link_matters() {
        let (new, del) = (libc::RTM_NEWLINK, libc::RTM_DELLINK);
        let after = |kind, body: &[u8]| link_after(Link::Up, 7, &Message { kind, body });
        assert_eq!(after(new, &link_body(0, 7, 0)), Link::Down);
        assert_eq!(after(new, &link_body(0, 7, libc::IFF_UP as u32)), Link::Up);
        assert_eq!(after(del, &link_body(0, 7, 0)), Link::Removed);
        assert_eq!(after(del, &link_body(libc::AF_BRIDGE, 7, 0)), Link::Up);
        assert_eq!(after(del, &link_body(0, 8, 0)), Link::Up);
        assert_eq!(after(del, &[]), Link::Up);
    }

    #[test]
    fn the_host_can_be_watched() {
        let mut watch = NetWatch::new(1).unwrap();
        assert!(!watch.link_is_removed());
        assert!(watch.addresses().iter().all(|address| !address.is_loopback()));
        watch.poll().unwrap();
    }
}
