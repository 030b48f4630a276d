#![allow(clippy::unwrap_used)]

use lacewing_format::Digest;

use super::shelf::MEMORY;
use super::*;

fn piece(number: u64, len: u32) -> PieceId {
    PieceId {
        blob: Digest::of(b"blob"),
        offset: number * 100_000,
        len,
    }
}

fn limits(bytes: u64) -> Limits {
    Limits {
        bytes,
        age: Duration::from_secs(60),
    }
}

#[tokio::test]
async fn pieces_are_bounded_and_the_least_used_goes_first() {
    let dir = tempfile::tempdir().unwrap();
    let store = PieceStore::open(dir.path(), limits(300)).unwrap();
    for number in 0..3 {
        store.put(piece(number, 100), Bytes::from(vec![number as u8; 100]));
    }
    assert_eq!(store.get(&piece(0, 100)).await.unwrap()[..], [0; 100]);
    store.put(piece(3, 100), Bytes::from(vec![3; 100]));
    let here: Vec<bool> = (0..4).map(|number| store.contains(&piece(number, 100))).collect();
    assert_eq!(here, [true, false, true, true]);
    assert_eq!(
        store.held(),
        Held {
            pieces: 3,
            bytes: 300
        }
    );
}

#[tokio::test]
async fn memory_is_bounded_and_the_rest_is_read_from_files() {
    let dir = tempfile::tempdir().unwrap();
    let store = PieceStore::open(dir.path(), limits(1 << 30)).unwrap();
    let len = 1 << 20;
    for number in 0..40 {
        store.put(
            piece(number * 100, len),
            Bytes::from(vec![number as u8; len as usize]),
        );
        // The file is there before the next piece comes, as with any network.
        while !store.state().pieces[&piece(number * 100, len)].on_disk {
            tokio::task::yield_now().await;
        }
    }
    assert!(store.state().in_memory <= MEMORY);
    assert_eq!(store.state().warm.len() as u64, MEMORY / u64::from(len));
    for number in 0..40 {
        let bytes = store.get(&piece(number * 100, len)).await.unwrap();
        assert!(bytes.iter().all(|byte| *byte == number as u8));
    }
}

async fn written(store: &PieceStore, piece: &PieceId) {
    while !store.state().pieces[piece].on_disk {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_store_is_opened_with_what_it_held() {
    let dir = tempfile::tempdir().unwrap();
    let store = PieceStore::open(dir.path(), limits(1000)).unwrap();
    for number in 0..3 {
        store.put(piece(number, 100), Bytes::from(vec![number as u8; 100]));
        written(&store, &piece(number, 100)).await;
    }
    drop(store);
    for _ in 0..2 {
        let store = PieceStore::open(dir.path(), limits(1000)).unwrap();
        for number in 0..3 {
            let bytes = store.get(&piece(number, 100)).await.unwrap();
            assert_eq!(bytes[..], [number as u8; 100]);
        }
        assert_eq!(
            store.held(),
            Held {
                pieces: 3,
                bytes: 300
            }
        );
    }
    assert_eq!(
        PieceStore::open(dir.path(), limits(200)).unwrap().held().pieces,
        2
    );
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[tokio::test]
async fn a_file_that_is_not_as_it_was_written_is_no_piece() {
    let dir = tempfile::tempdir().unwrap();
    let store = PieceStore::open(dir.path(), limits(1000)).unwrap();
    for number in 0..2 {
        store.put(piece(number, 100), Bytes::from(vec![1; 100]));
        written(&store, &piece(number, 100)).await;
    }
    let path = store.path(&piece(0, 100));
    let whole = std::fs::read(&path).unwrap();
    for at in [0, 99, 100, whole.len() - 1] {
        let mut spoiled = whole.clone();
        spoiled[at] ^= 1;
        std::fs::write(&path, &spoiled).unwrap();
        let store = PieceStore::open(dir.path(), limits(1000)).unwrap();
        assert!(store.contains(&piece(0, 100)), "nothing is read to open it");
        assert_eq!(store.get(&piece(0, 100)).await, None, "byte {at}");
        assert!(!path.exists());
        assert!(store.get(&piece(1, 100)).await.is_some());
    }
    for len in [0, 100, whole.len() - 1] {
        std::fs::write(&path, &whole[..len]).unwrap();
        assert!(
            !PieceStore::open(dir.path(), limits(1000))
                .unwrap()
                .contains(&piece(0, 100))
        );
        assert!(!path.exists());
    }
}

#[tokio::test]
async fn what_nobody_uses_goes_and_what_is_no_piece_too() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("left"), "x").unwrap();
    let store = PieceStore::open(dir.path(), limits(1 << 20)).unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    store.put(piece(0, 10), Bytes::from_static(b"0123456789"));
    store.sweep(Instant::now());
    assert!(store.contains(&piece(0, 10)));
    store.sweep(Instant::now() + Duration::from_secs(61));
    assert!(!store.contains(&piece(0, 10)));
    assert_eq!(store.held(), Held::default());
}

#[tokio::test]
async fn a_file_that_is_gone_is_a_piece_that_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let store = PieceStore::open(dir.path(), limits(1 << 20)).unwrap();
    store.put(piece(0, 10), Bytes::from_static(b"0123456789"));
    while !store.state().pieces[&piece(0, 10)].on_disk {
        tokio::task::yield_now().await;
    }
    store.state().pieces.get_mut(&piece(0, 10)).unwrap().memory = None;
    store.state().in_memory = 0;
    std::fs::remove_file(store.path(&piece(0, 10))).unwrap();
    assert_eq!(store.get(&piece(0, 10)).await, None);
    assert!(!store.contains(&piece(0, 10)));
}
