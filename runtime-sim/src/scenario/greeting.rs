//! What a visitor of a host says first.

use protocol_sm::routes::{Site, Web};

/// The head of a request, or a ClientHello, that names the site's host, or one below it.
pub(super) fn greeting(site: &Site, web: Web) -> Vec<u8> {
    let host = visited(site);
    match web {
        Web::Http => format!("GET / HTTP/1.1\r\nAccept: */*\r\nHost: {host}:80\r\n\r\n").into_bytes(),
        Web::Https => client_hello(host.as_bytes()),
    }
}

/// The name of the site that a visitor says.
pub(super) fn visited(site: &Site) -> String {
    site.host.to_string().replace('*', "Some.Where")
}

/// In records of a few bytes.
fn client_hello(name: &[u8]) -> Vec<u8> {
    let entry = [&[0], &sized(2, name)[..]].concat();
    let extension = [&[0, 0], &sized(2, &sized(2, &entry))[..]].concat();
    let fixed = [&[3, 3][..], &[7; 32], &[0], &sized(2, &[0x13, 1]), &sized(1, &[0])].concat();
    let body = [fixed, sized(2, &extension)].concat();
    let message = [&[1], &sized(3, &body)[..]].concat();
    message.chunks(40).flat_map(|chunk| [&[0x16, 3, 1], &sized(2, chunk)[..]].concat()).collect()
}

/// Behind their length, which takes `size` bytes.
fn sized(size: usize, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("a few bytes").to_be_bytes();
    [&length[4 - size..], body].concat()
}
