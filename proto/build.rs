//! Compiles the .proto files in pure Rust: no protoc has to be on the machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const FILES: [&str; 6] = [
        "imaccess/v1/link.proto",
        "imaccess/v1/custody.proto",
        "imaccess/v1/volume.proto",
        "imaccess/v1/business.proto",
        "imaccess/v1/route.proto",
        "imaccess/v1/push.proto",
    ];
    for file in FILES {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(FILES, ["."])?;
    tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
