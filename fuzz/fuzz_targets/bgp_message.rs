//! Any bytes as one BGP message: decoded, and what was good encoded again. The first byte chooses the kind of session.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use tortie_bird_lite::wire::header::{self, HEADER_LENGTH, MAX_MESSAGE, MessageType};
use tortie_bird_lite::wire::update::{self, Context};
use tortie_bird_lite::wire::{Family, Notification, Open, RouteRefresh, Update};

fuzz_target!(|data: &[u8]| {
    let Some((&kind, message)) = data.split_first() else { return };
    let context = Context { four_octets: kind & 1 == 0, external: kind & 2 == 0 };
    let Ok(Some((kind, length))) = header::peek(message) else { return };
    let Some(body) = message.get(HEADER_LENGTH..length) else { return };
    let mut out = BytesMut::new();
    match kind {
        MessageType::Open => {
            if let Ok(open) = Open::decode(body) {
                open.encode(&mut out);
                assert_eq!(Open::decode(&out[HEADER_LENGTH..]).map(|open| open.router_id), Ok(open.router_id));
            }
        }
        MessageType::Update => {
            let Ok(update) = Update::decode(body, context) else { return };
            if let Some(attributes) = &update.attributes {
                for nlri in [Some(update.announced), update.reach.map(|reach| reach.nlri)].into_iter().flatten() {
                    let _ = update::encode_announcements(
                        attributes,
                        nlri.family(),
                        nlri.prefixes(),
                        context.four_octets,
                        &mut out,
                    );
                }
            }
            for family in Family::ALL {
                update::encode_withdrawals(
                    family,
                    update.lost().filter(|prefix| Family::of(prefix) == family),
                    &mut out,
                );
            }
        }
        MessageType::Notification => {
            if let Some(notification) = Notification::decode(body) {
                notification.encode(&mut out);
                let _ = notification.to_string();
            }
        }
        MessageType::Keepalive => header::encode_keepalive(&mut out),
        MessageType::RouteRefresh => {
            if let Ok(refresh) = RouteRefresh::decode(body) {
                refresh.encode(&mut out);
            }
        }
    }
    let mut rest = &out[..];
    while let Ok(Some((_, length))) = header::peek(rest) {
        assert!(length <= MAX_MESSAGE && length <= rest.len());
        rest = &rest[length..];
    }
    assert!(rest.is_empty(), "what we write is whole messages");
});
