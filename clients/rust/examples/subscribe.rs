//! Prints what comes under a filter, from now on: subscribe [FILTER [ADDRESS]]

use eventstream_client::{Delivery, Error, Subscriber, Subscription};

fn main() -> Result<(), Error> {
    let filter = std::env::args().nth(1).unwrap_or_else(|| "#".into());
    let address = std::env::args().nth(2).unwrap_or_else(|| "127.0.0.1:8081".into());
    for delivery in Subscriber::new(&address, Subscription::new(&filter))? {
        match delivery? {
            Delivery::Event(event) => {
                println!("{} {} {}", event.topic, event.class.as_str(), event.payload.escape_ascii());
            }
            notice => println!("notice: {notice:?}"),
        }
    }
    Ok(())
}
