//! Pushes a good morning to the devices that it is given.

use imaccess_proto::v1::PushDevicesRequest;
use imaccess_proto::v1::push_client::PushClient;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let push = std::env::var("IMACCESS_PUSH").unwrap_or("http://127.0.0.1:8100".to_owned());
    let devices: Vec<String> = std::env::args().skip(1).collect();
    let mut client = PushClient::connect(push).await?;
    let request = PushDevicesRequest {
        business: 3,
        app: "demo".to_owned(),
        devices: devices.clone(),
        payload: "good morning".into(),
        ..PushDevicesRequest::default()
    };
    let answer = client.push_devices(request).await?.into_inner();
    for (device, outcome) in devices.iter().zip(answer.outcomes()) {
        println!("{device}: {}", outcome.as_str_name());
    }
    Ok(())
}
