//! Publishes numbered events and says what became of them: publish [ADDRESS]

use std::collections::BTreeMap;

use eventstream_client::{Error, Message, Publisher};

fn main() -> Result<(), Error> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8081".into());
    let publisher = Publisher::new(&address)?;
    let publish = |number: u32| publisher.publish(Message::new("sensor/temp", &format!("{{\"temp\": {number}}}")));
    let receipts = (0..10_000).map(publish).collect::<Result<Vec<_>, _>>()?;
    let mut statuses = BTreeMap::new();
    for receipt in receipts {
        *statuses.entry(receipt.wait()?.status).or_insert(0) += 1;
    }
    println!("{statuses:?}");
    Ok(())
}
