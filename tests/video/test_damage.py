"""What is no whole video ends in a VideoError that names the cause, from a file and from its bytes."""

import pickle

import pytest

from tubelet.video import VideoError, open_video, probe


def check(data: bytes, cause: str, tmp_path, suffix: str = ".mp4") -> None:
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(data)
    for source in (path, data):
        with pytest.raises(VideoError, match=cause) as caught:
            probe(source, name="clip 7")
        assert str(caught.value).startswith("clip 7: ")


def test_what_is_not_a_video(tmp_path):
    check(b"", "the file is empty", tmp_path)
    check(b"\0" * 5000, "nothing but zeros", tmp_path)
    check(b"\n<!DOCTYPE html><html><body>404</body></html>" * 9, "an HTML or XML page", tmp_path)
    check(bytes(range(7, 200)) * 50, "FFmpeg knows no such format", tmp_path)


def test_paths_that_lead_nowhere(tmp_path):
    with pytest.raises(VideoError, match="no such file"):
        probe(tmp_path / "none.mp4")
    with pytest.raises(VideoError, match="it is a folder"):
        open_video(tmp_path)


def test_sound_only(sounds):
    for source in (sounds, sounds.read_bytes()):
        with pytest.raises(VideoError, match="no video stream: only audio"):
            open_video(source)


def test_a_missing_or_cut_index(videos, tmp_path):
    data = videos["h264.mp4"].read_bytes()  # its index (moov) stands at the end
    check(data[: len(data) // 2], r"the index \(moov\) is missing", tmp_path)
    check(data[: data.index(b"moov") + 40], r"the index \(moov\) is cut short", tmp_path)


def test_an_index_that_promises_more_frames(videos, tmp_path):
    data = videos["h264.mp4"].read_bytes()
    start = data.index(b"moov") - 4
    media = data.index(b"mdat") - 4
    # The index first, with its offsets moved by its own length, then only half of the media.
    index = bytearray(data[start:])
    at = index.index(b"stco") + 8
    for entry in range(int.from_bytes(index[at : at + 4], "big")):
        place = at + 4 + 4 * entry
        offset = int.from_bytes(index[place : place + 4], "big") + len(index)
        index[place : place + 4] = offset.to_bytes(4, "big")
    whole = data[:media] + bytes(index) + data[media:start]
    assert probe(whole).frames == 100
    check(
        whole[: len(whole) - (start - media) // 2],
        r"\d+ of 100 frames are in the file whole: it is cut short",
        tmp_path,
    )


@pytest.mark.parametrize("name", ["vp9.webm", "h264.mkv"])
def test_matroska_cut_or_overwritten(videos, tmp_path, name):
    data = videos[name].read_bytes()
    check(data[: len(data) * 2 // 3], "cut short: .* bytes are there", tmp_path, ".webm")
    middle = len(data) // 2
    check(data[:middle] + b"\0" * 4096 + data[middle + 4096 :], "damaged at byte", tmp_path, ".webm")


def test_an_avi_cut_short(videos, tmp_path):
    data = videos["mpeg4.avi"].read_bytes()
    check(data[: len(data) // 2], "cut short: .* bytes are there", tmp_path, ".avi")


def test_damaged_pictures(videos, tmp_path):
    data = bytearray(videos["h264.mp4"].read_bytes())
    media, end = data.index(b"mdat") + 2000, data.index(b"moov") - 4
    for at in range(media, end, 97):
        data[at] ^= 0x55
    path = tmp_path / "flipped.mp4"
    path.write_bytes(data)
    assert probe(path, decode=False).frames == 100
    with pytest.raises(VideoError, match=r"\d+ of 100 frames (are damaged|decode)"):
        probe(path)
    with open_video(path) as video, pytest.raises(VideoError, match=r"frame \d+ of 100 is damaged"):
        video.frames(range(100))


def test_frames_before_the_damage_are_still_read(videos, tmp_path, read_numbers):
    data = bytearray(videos["h264.mp4"].read_bytes())
    end = data.index(b"moov") - 4
    data[end - 3000 : end - 1000] = bytes(2000)
    with open_video(bytes(data)) as video:
        assert read_numbers(video.frames([5, 20])) == [5, 20]
        with pytest.raises(VideoError, match="damaged"):
            video.frames([99])


def test_the_error_crosses_processes():
    error = VideoError("clip 7", "it is empty")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - what multiprocessing does
    assert (copy.name, copy.cause, str(copy)) == ("clip 7", "it is empty", "clip 7: it is empty")
