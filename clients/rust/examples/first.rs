//! The example of the README.

use eventstream_client::{Error, Message, Publisher};

fn main() -> Result<(), Error> {
    let publisher = Publisher::new("127.0.0.1:8081")?;
    let receipt = publisher.publish(Message::new("sensor/temp", "23.5"))?;
    println!("{:?}", receipt.wait()?.status);
    Ok(())
}
