//! Sends numbered events over UDP, as many to a datagram as fit: udp [ADDRESS]

use eventstream_client::{Error, Message, Priority, UdpPublisher};

fn main() -> Result<(), Error> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8082".into());
    let publisher = UdpPublisher::new(&address)?;
    for number in 0..10_000 {
        let payload = format!("{{\"temp\": {number}}}");
        publisher.publish(Message::new("sensor/temp", &payload).priority(Priority::High))?;
    }
    publisher.flush()?;
    println!("sent, as far as anybody knows");
    Ok(())
}
