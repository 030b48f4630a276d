//! Conversions that follow a record.

use super::*;
use crate::record::Record;

/// Names `f399` and `f398`, the end of `large`, its second chunk, and what is not there.
const RECORD: &str = r#"{"path":"/d/f399.txt"}
{"path":"d/large","offset":2900000,"length":10}
{"path":"/nowhere"}
{"path":"/d/f398.txt","offset":0,"length":1}
{"path":"/d/large","offset":262144,"length":1}
{"path":"/d/f399.txt"}
{"path":"/zeros"}
"#;

fn convert_recorded(record: &str, jobs: usize, earlier: Vec<Blob>) -> (Vec<Done>, usize) {
    let record = Record::parse(record.as_bytes()).unwrap();
    let settings = Settings {
        record: Some(Arc::new(record)),
        ..settings(5, jobs)
    };
    let mut converter = LayerConverter::new(settings, earlier);
    let done = run(&mut converter, &image()).unwrap().0;
    (done, converter.found())
}

fn earlier(of: &[Done]) -> Vec<Blob> {
    let mut earlier = Vec::new();
    for done in of {
        from_index(Index::parse(&plain(done)).unwrap(), &mut earlier);
    }
    earlier
}

#[test]
fn what_the_record_names_comes_first_in_its_order() {
    let (done, found) = convert_recorded(RECORD, 2, Vec::new());
    assert_eq!(found, 4, "all but /nowhere");
    let plain = plain(&done[0]);
    let index = Index::parse(&plain).unwrap();
    assert!(index.recorded());
    assert_eq!(index.prefetch().collect::<Vec<_>>(), [0], "one frame has it all");
    let lens: Vec<u32> = index
        .frame_chunks(0)
        .iter()
        .map(lacewing_format::Chunk::len)
        .collect();
    let large_end = 3_000_000 % (256 << 10);
    assert_eq!(lens, [9 * 399, large_end, 9 * 398, 256 << 10]);
    assert_eq!(
        done[0].counts.recorded,
        lens.iter().copied().map(u64::from).sum::<u64>()
    );
    // The upper layer has a copy of `large` under a name that the record does not know, and zeros.
    let plain = super::plain(&done[1]);
    let index = Index::parse(&plain).unwrap();
    assert_eq!((index.recorded(), index.prefetch().count()), (false, 0));
}

#[test]
fn the_same_record_gives_the_same_bytes() {
    let (one, _) = convert_recorded(RECORD, 1, Vec::new());
    let (four, _) = convert_recorded(RECORD, 4, Vec::new());
    for (one, four) in one.iter().zip(&four) {
        assert_eq!((one.blob, &one.index), (four.blob, &four.index));
    }
}

#[test]
fn a_later_version_with_the_same_record_stores_nothing_anew() {
    let (first, _) = convert_recorded(RECORD, 2, Vec::new());
    let (second, _) = convert_recorded(RECORD, 2, earlier(&first));
    for (first, second) in first.iter().zip(&second) {
        assert_eq!((second.blob, second.counts.new), (None, 0));
        assert_eq!(first.index, second.index);
    }
    // One that reads something else besides stores only that.
    let more = format!("{RECORD}{{\"path\":\"/d/f100.txt\"}}\n");
    let (third, _) = convert_recorded(&more, 2, earlier(&first));
    assert_eq!(third[0].counts.new, 900);
}

#[test]
fn what_an_image_without_a_record_has_among_others_is_stored_anew() {
    let before = convert(&image(), 2, Vec::new()).unwrap();
    let (done, _) = convert_recorded(RECORD, 2, earlier(&before));
    assert_eq!(done[0].counts.new, done[0].counts.recorded);
    let plain = plain(&done[0]);
    let index = Index::parse(&plain).unwrap();
    let hot: Vec<usize> = index.prefetch().collect();
    assert_eq!(hot.len(), 1);
    assert_eq!(
        Some((index.devices()[index.frame_device(hot[0])].blob(), hot.len())),
        done[0].blob.map(|(digest, _)| (digest, 1)),
        "in a blob of its own"
    );
}

#[test]
fn a_record_that_names_everything_is_followed() {
    let (plain_done, _) = convert_recorded("{\"path\":\"/nowhere\"}", 2, Vec::new());
    let all: String = (0..400)
        .rev()
        .map(|n| format!("{{\"path\":\"/d/f{n:03}.txt\"}}\n"))
        .collect();
    let (done, found) = convert_recorded(&all, 2, Vec::new());
    assert_eq!(found, 400);
    assert_eq!(done[0].counts.new, plain_done[0].counts.new);
    let plain = plain(&done[0]);
    let index = Index::parse(&plain).unwrap();
    let hot: Vec<usize> = index.prefetch().collect();
    assert!(hot.len() > 1 && hot.iter().copied().eq(0..hot.len()), "{hot:?}");
    let first = index.frame_chunks(0)[0];
    assert_eq!(
        first.id(),
        lacewing_format::ChunkId::of("file 399\n".repeat(399).as_bytes())
    );
}
