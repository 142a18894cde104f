"""The complete story: the official Python client against a running server.

Settings come from the environment; see ../run.sh.
"""

from __future__ import annotations

import os
import re
import sys
import time
import traceback
import uuid
import warnings
from pathlib import Path
from typing import Any, Callable

import httpx
import linq
from linq.types import AttachmentCreateResponse, Message
from linq.types.chat_send_voicememo_response import VoiceMemo
from linq.types.chats import SentMessage
from linq.types.shared import LinkPartResponse, MediaPartResponse, TextPartResponse

LINE = os.environ["STORY_LINE"]
SECOND_LINE = os.environ["STORY_SECOND_LINE"]
PHOTO = Path(os.environ["STORY_PHOTO"]).read_bytes()
CORPUS = Path(os.environ["STORY_CORPUS"])
PICTURE = (CORPUS / "alpha-interlaced.png").read_bytes()
# Audio of 2.5 seconds.
MEMO = (CORPUS / "voice.m4a").read_bytes()

# The origin of files fetched by URL (see origin.py): its URL, and the URL of its control interface.
ORIGIN = os.environ["STORY_ORIGIN"]
ORIGIN_CONTROL = os.environ["STORY_ORIGIN_CONTROL"]

# Every recipient here starts with +12025552, so that this story and the TypeScript one do not share a rate limit.
FRIEND = "+12025552001"
LIST_FRIENDS = ["+12025552002", "+12025552003", "+12025552004"]
NEW_FRIEND = "+12025552005"
STRANGER = "+12025552006"
BUSY_FRIEND = "+12025552007"
MEDIA_FRIEND = "+12025552008"
MEMO_FRIEND = "+12025552009"

# Strict validation makes the client check every response against its models, and raise on a mismatch.
# No retries, since a second attempt would hide the failure of the first.
client = linq.LinqAPIV3(max_retries=0, _strict_response_validation=True)
other = linq.LinqAPIV3(
    api_key=os.environ["STORY_OTHER_API_KEY"], max_retries=0, _strict_response_validation=True
)

Step = Callable[[], None]
steps: list[tuple[str, Step]] = []


def step(title: str) -> Callable[[Step], Step]:
    def register(function: Step) -> Step:
        steps.append((title, function))
        return function

    return register


class Story:
    """Results of earlier steps that later ones use."""

    photo: AttachmentCreateResponse
    chat_id: str
    first_message_id: str
    photo_url: str
    reply_id: str
    hosted_photo: str
    fetched_photo: MediaPartResponse
    memo_chat_id: str
    memo: VoiceMemo


def fails(kind: type[linq.APIStatusError], code: int, call: Callable[[], Any]) -> linq.APIStatusError:
    """Asserts that the call raises this exception with this code and a complete error body."""
    try:
        answer = call()
    except kind as error:
        assert error.code == code, f"expected code {code}, got {error.code}: {error.message}"
        assert error.doc_url == f"https://docs.linqapp.com/error/codes/{code // 1000}xxx/{code}/", error.doc_url
        body = error.response.json()
        assert body["success"] is False, body
        assert body["error"]["status"] == error.status_code, body
        assert body["error"]["message"], body
        assert re.fullmatch("[0-9a-f]{32}", body["trace_id"]), body
        assert error.response.headers["X-Trace-ID"] == body["trace_id"], body
        return error
    raise AssertionError(f"expected {kind.__name__} {code}, got {answer!r}")


def upload(
    filename: str, content: bytes, content_type: Any = "image/jpeg", by: linq.LinqAPIV3 = client
) -> AttachmentCreateResponse:
    created = by.attachments.create(filename=filename, content_type=content_type, size_bytes=len(content))
    answer = httpx.request(
        created.http_method, created.upload_url, headers=created.required_headers, content=content
    )
    answer.raise_for_status()
    return created


def wait_until_delivered(message_id: str) -> Message:
    deadline = time.monotonic() + 5
    while True:
        message = client.messages.retrieve(message_id)
        if message.delivery_status == "delivered":
            return message
        assert time.monotonic() < deadline, f"still {message.delivery_status} after 5 s"
        time.sleep(0.05)


def say(chat_id: str, text: str) -> str:
    sent = client.chats.messages.send(chat_id, message={"parts": [{"type": "text", "value": text}]})
    return sent.message.id


def start_chat(to: str, text: str, from_: str = LINE) -> str:
    created = client.chats.create(from_=from_, to=[to], message={"parts": [{"type": "text", "value": text}]})
    return created.chat.id


def host(path: str, content: bytes) -> str:
    """Puts a file on the origin, and returns its URL."""
    # Below a path of this story, which the TypeScript one does not request.
    httpx.put(f"{ORIGIN_CONTROL}/python/{path}", content=content).raise_for_status()
    return f"{ORIGIN}/python/{path}"


def requests_for(url: str) -> list[tuple[str | None, int]]:
    """Returns If-None-Match and response status of every request to the origin for this URL."""
    requests = httpx.get(f"{ORIGIN_CONTROL}/requests").json()
    return [(request["if_none_match"], request["status"]) for request in requests if ORIGIN + request["path"] == url]


def send_parts(*parts: Any, to: str = MEDIA_FRIEND) -> SentMessage:
    return client.chats.create(from_=LINE, to=[to], message={"parts": parts}).chat.message


def send_url(url: str, to: str = MEDIA_FRIEND) -> MediaPartResponse:
    (part,) = send_parts({"type": "media", "url": url}, to=to).parts
    assert isinstance(part, MediaPartResponse), part
    return part


def media_part(message: Message) -> MediaPartResponse:
    for part in message.parts or []:
        if isinstance(part, MediaPartResponse):
            return part
    raise AssertionError(f"no media part in {message.parts!r}")


def send_memo(**source: Any) -> VoiceMemo:
    """Sends a voice memo, and checks the fields that every response has."""
    sent = client.chats.send_voicememo(Story.memo_chat_id, **source).voice_memo
    assert (sent.from_, sent.to, sent.status, sent.service) == (LINE, [MEMO_FRIEND], "queued", "iMessage"), sent
    assert abs(sent.created_at.timestamp() - time.time()) < 60, sent
    assert sent.chat.id == Story.memo_chat_id, sent
    assert sent.chat.is_active and not sent.chat.is_group and sent.chat.service == "iMessage", sent
    assert {(handle.handle, handle.is_me) for handle in sent.chat.handles} == {(LINE, True), (MEMO_FRIEND, False)}, sent
    memo = sent.voice_memo
    # All audio samples have the same duration.
    assert memo.duration_ms is not None and abs(memo.duration_ms - 2500) <= 50, sent
    answer = httpx.get(memo.url)
    assert answer.status_code == 200, answer
    assert answer.headers["Content-Type"] == memo.mime_type, (answer.headers, sent)
    assert len(answer.content) == memo.size_bytes, sent
    return sent


# --- successful calls ---


@step("list phone numbers")
def list_phone_numbers() -> None:
    numbers = client.phone_numbers.list().phone_numbers
    assert {number.phone_number for number in numbers} == {LINE, SECOND_LINE}, numbers
    assert all(number.reputation.status == "HEALTHY" for number in numbers), numbers


@step("list phone numbers by the deprecated endpoint")
def list_phone_numbers_deprecated() -> None:
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        numbers = client.phonenumbers.list().phone_numbers
    assert {number.phone_number for number in numbers} == {LINE, SECOND_LINE}, numbers


@step("every response has a fresh trace id")
def trace_ids() -> None:
    seen = {client.phone_numbers.with_raw_response.list().headers["X-Trace-ID"] for _ in range(3)}
    assert len(seen) == 3, seen
    assert all(re.fullmatch("[0-9a-f]{32}", trace_id) for trace_id in seen), seen


@step("create an attachment")
def create_attachment() -> None:
    created = client.attachments.create(filename="photo.jpg", content_type="image/jpeg", size_bytes=len(PHOTO))
    assert created.http_method == "PUT"
    assert created.required_headers == {"Content-Type": "image/jpeg", "Content-Length": str(len(PHOTO))}
    life = created.expires_at.timestamp() - time.time()
    assert 14 * 60 < life < 16 * 60, f"upload_url lives for {life} s"
    assert client.attachments.retrieve(created.attachment_id).status == "pending"
    Story.photo = created


@step("a pending attachment cannot be sent or downloaded")
def pending_attachment() -> None:
    part: Any = {"type": "media", "attachment_id": Story.photo.attachment_id}
    fails(
        linq.NotFoundError,
        2007,
        lambda: client.chats.create(from_=LINE, to=[STRANGER], message={"parts": [part]}),
    )
    assert httpx.get(Story.photo.download_url).status_code == 404


@step("an upload with another Content-Type or length is rejected")
def refused_uploads() -> None:
    attempts = [
        ({**Story.photo.required_headers, "Content-Type": "image/png"}, PHOTO),
        ({"Content-Type": "image/jpeg"}, PHOTO[:-1]),
    ]
    for headers, content in attempts:
        answer = httpx.put(Story.photo.upload_url, headers=headers, content=content)
        assert answer.status_code == 403, answer
        # Buckets have their own error codes: Garage returns AccessDenied.
        code = "<Code>" if os.environ.get("STORY_BLOBS_URL") else "<Code>SignatureDoesNotMatch</Code>"
        assert code in answer.text, answer.text
    assert client.attachments.retrieve(Story.photo.attachment_id).status == "pending"


@step("upload a photo")
def upload_photo() -> None:
    created = Story.photo
    answer = httpx.request(
        created.http_method, created.upload_url, headers=created.required_headers, content=PHOTO
    )
    assert answer.status_code == 200, answer.text
    attachment = client.attachments.retrieve(created.attachment_id)
    assert attachment.status == "complete", attachment
    assert attachment.filename == "photo.jpg", attachment
    assert attachment.content_type == "image/jpeg", attachment
    assert attachment.size_bytes == len(PHOTO), attachment
    assert attachment.download_url == created.download_url, attachment


@step("send text and photo in a new chat")
def send_photo() -> None:
    chat = client.chats.create(
        from_=LINE,
        to=[FRIEND],
        message={
            "parts": [
                {"type": "text", "value": "Look at this"},
                {"type": "media", "attachment_id": Story.photo.attachment_id},
            ]
        },
    ).chat
    assert chat.is_group is False
    assert chat.display_name == FRIEND, chat
    assert {(handle.handle, handle.is_me) for handle in chat.handles} == {(LINE, True), (FRIEND, False)}, chat
    assert chat.health_status.status == "HEALTHY", chat
    assert chat.message.delivery_status == "pending", chat.message
    assert chat.message.from_handle is not None and chat.message.from_handle.handle == LINE, chat.message
    text, media = chat.message.parts
    assert isinstance(text, TextPartResponse) and text.value == "Look at this", text
    assert isinstance(media, MediaPartResponse) and media.id == Story.photo.attachment_id, media
    Story.chat_id = chat.id
    Story.first_message_id = chat.message.id


@step("the message is delivered")
def message_delivered() -> None:
    message = wait_until_delivered(Story.first_message_id)
    assert message.chat_id == Story.chat_id
    assert message.is_from_me and message.is_delivered and not message.is_read, message
    assert message.from_ == LINE, message
    assert message.sent_at and message.delivered_at, message
    assert message.created_at <= message.sent_at <= message.delivered_at, message
    part = media_part(message)
    assert (part.filename, part.mime_type, part.size_bytes) == ("photo.jpg", "image/jpeg", len(PHOTO)), part
    Story.photo_url = part.url


@step("download the same bytes")
def download_photo() -> None:
    answer = httpx.get(Story.photo_url)
    assert answer.status_code == 200, answer
    assert answer.content == PHOTO, f"{len(answer.content)} other bytes"
    assert answer.headers["Content-Type"] == "image/jpeg", answer.headers
    assert answer.headers["X-Content-Type-Options"] == "nosniff", answer.headers
    assert Story.photo_url == Story.photo.download_url

    unchanged = httpx.get(Story.photo_url, headers={"If-None-Match": answer.headers["ETag"]})
    assert unchanged.status_code == 304, unchanged


@step("download a range, and make a HEAD request")
def download_part() -> None:
    middle = httpx.get(Story.photo_url, headers={"Range": "bytes=100-199"})
    assert middle.status_code == 206, middle
    assert middle.content == PHOTO[100:200]
    assert middle.headers["Content-Range"] == f"bytes 100-199/{len(PHOTO)}", middle.headers

    end = httpx.get(Story.photo_url, headers={"Range": "bytes=-10"})
    assert end.status_code == 206 and end.content == PHOTO[-10:], end

    head = httpx.head(Story.photo_url)
    assert head.status_code == 200, head
    assert head.headers["Content-Length"] == str(len(PHOTO)), head.headers
    assert head.content == b""


@step("reply to the photo and read the thread")
def reply_in_thread() -> None:
    reply = client.chats.messages.send(
        Story.chat_id,
        message={
            "parts": [{"type": "text", "value": "Taken this morning"}],
            "reply_to": {"message_id": Story.first_message_id, "part_index": 1},
        },
    ).message
    assert reply.reply_to is not None and reply.reply_to.message_id == Story.first_message_id, reply
    assert reply.reply_to.part_index == 1, reply
    Story.reply_id = reply.id

    thread = [message.id for message in client.messages.list_messages_thread(reply.id, limit=1)]
    assert thread == [Story.first_message_id, reply.id], thread
    thread = [message.id for message in client.messages.list_messages_thread(reply.id, order="desc")]
    assert thread == [reply.id, Story.first_message_id], thread


@step("send a link into the chat")
def send_link() -> None:
    link = client.chats.messages.send(
        Story.chat_id, message={"parts": [{"type": "link", "value": "https://example.com/album"}]}
    ).message
    (part,) = link.parts
    assert isinstance(part, LinkPartResponse) and part.value == "https://example.com/album", part


@step("creating the same chat again reuses it")
def reuse_chat() -> None:
    assert start_chat(FRIEND, "Still here?") == Story.chat_id


@step("list messages newest first, while another one arrives")
def list_messages() -> None:
    expected = [say(Story.chat_id, f"Number {number}") for number in range(3)][::-1]
    listed: list[str] = []
    for message in client.chats.messages.list(Story.chat_id, limit=2):
        if not listed:
            say(Story.chat_id, "I arrive between two pages")
        listed.append(message.id)
    assert listed[:3] == expected, listed
    assert listed[-1] == Story.first_message_id, listed
    assert len(listed) == len(set(listed)) == 7, listed


@step("get one chat and list chats page by page")
def list_chats() -> None:
    chat = client.chats.retrieve(Story.chat_id)
    assert chat.id == Story.chat_id and not chat.is_group and not chat.is_archived, chat
    assert chat.created_at <= chat.updated_at, chat

    created = [start_chat(to, "Hello", from_=SECOND_LINE) for to in LIST_FRIENDS]
    listed = [chat.id for chat in client.chats.list_chats(from_=SECOND_LINE, limit=1)]
    assert listed[:3] == created[::-1], listed
    assert len(listed) == len(set(listed)), listed

    with_friend = [chat.id for chat in client.chats.list_chats(to=FRIEND)]
    assert with_friend == [Story.chat_id], with_friend


@step("send without a line, twice with one idempotency key")
def idempotent_send() -> None:
    key = f"python-{uuid.uuid4()}"
    first, second = [
        client.messages.create(
            to=[NEW_FRIEND],
            message={"parts": [{"type": "text", "value": "Only once, please"}]},
            idempotency_key=key,
        )
        for _ in range(2)
    ]
    assert first.from_ in (LINE, SECOND_LINE), first
    assert first.created_new_chat and first.from_selection.reason == "new_best_number", first
    assert second.message.id == first.message.id and second.chat_id == first.chat_id, second
    assert len(list(client.chats.messages.list(first.chat_id))) == 1

    again = client.messages.create(
        to=[NEW_FRIEND], message={"parts": [{"type": "link", "value": "https://example.com/"}]}
    )
    assert again.chat_id == first.chat_id and not again.created_new_chat, again
    assert again.from_selection.reason == "reused_active_chat", again
    assert again.from_selection.reused_existing_chat, again


@step("mark as read, start and stop typing")
def read_and_typing() -> None:
    client.chats.mark_as_read(Story.chat_id)
    client.chats.typing.start(Story.chat_id)
    client.chats.typing.stop(Story.chat_id)


@step("delete a message")
def delete_message() -> None:
    client.messages.delete(Story.reply_id)
    fails(linq.NotFoundError, 2002, lambda: client.messages.retrieve(Story.reply_id))
    fails(linq.NotFoundError, 2002, lambda: client.messages.delete(Story.reply_id))
    assert Story.reply_id not in [message.id for message in client.chats.messages.list(Story.chat_id)]


@step("delete an attachment that was sent")
def delete_attachment() -> None:
    # A filename that needs encoding in URLs and headers.
    name = "Zürich & café #1 50%.jpg"
    attachment_id = upload(name, PHOTO).attachment_id
    part: Any = {"type": "media", "attachment_id": attachment_id}
    message_id = client.chats.messages.send(Story.chat_id, message={"parts": [part]}).message.id
    sent = media_part(client.messages.retrieve(message_id))
    assert sent.filename == name, sent
    assert httpx.get(sent.url).content == PHOTO

    client.attachments.delete(attachment_id)
    fails(linq.NotFoundError, 2003, lambda: client.attachments.retrieve(attachment_id))
    fails(linq.NotFoundError, 2003, lambda: client.attachments.delete(attachment_id))
    fails(
        linq.NotFoundError,
        2003,
        lambda: client.chats.messages.send(Story.chat_id, message={"parts": [part]}),
    )
    assert httpx.get(sent.url).status_code == 404

    left = media_part(client.messages.retrieve(message_id))
    assert (left.id, left.url, left.filename, left.mime_type, left.size_bytes) == ("", "", "", "", 0), left


# --- media by URL, and detection of types ---


@step("send a photo by URL")
def send_by_url() -> None:
    Story.hosted_photo = host("holiday%20photo.jpg?size=large", PHOTO)
    sent = send_parts({"type": "text", "value": "From the web"}, {"type": "media", "url": Story.hosted_photo})
    _, part = sent.parts
    assert isinstance(part, MediaPartResponse), part
    assert (part.filename, part.mime_type, part.size_bytes) == ("holiday photo.jpg", "image/jpeg", len(PHOTO)), part
    assert requests_for(Story.hosted_photo) == [(None, 200)]
    assert media_part(wait_until_delivered(sent.id)) == part
    Story.fetched_photo = part


@step("a fetched file is a stored attachment")
def fetched_attachment() -> None:
    part = Story.fetched_photo
    answer = httpx.get(part.url)
    assert answer.status_code == 200 and answer.content == PHOTO, answer
    assert answer.headers["Content-Type"] == "image/jpeg", answer.headers
    attachment = client.attachments.retrieve(part.id)
    assert attachment.status == "complete", attachment
    assert attachment.filename == "holiday photo.jpg", attachment
    assert attachment.content_type == "image/jpeg", attachment
    assert attachment.size_bytes == len(PHOTO), attachment
    assert attachment.download_url == part.url, attachment


@step("the same URL again is a new attachment, revalidated with the origin")
def unchanged_url() -> None:
    part = send_url(Story.hosted_photo)
    assert part.id != Story.fetched_photo.id and part.url != Story.fetched_photo.url, part
    assert (part.filename, part.mime_type, part.size_bytes) == ("holiday photo.jpg", "image/jpeg", len(PHOTO)), part
    _, (condition, status) = requests_for(Story.hosted_photo)
    assert condition and status == 304, (condition, status)
    assert httpx.get(part.url).content == PHOTO

    # The attachments are deleted separately, although they share a blob.
    client.attachments.delete(Story.fetched_photo.id)
    assert httpx.get(Story.fetched_photo.url).status_code == 404
    assert httpx.get(part.url).content == PHOTO
    assert client.attachments.retrieve(part.id).status == "complete"


@step("a file that changed at its URL is fetched anew")
def changed_url() -> None:
    url = host("news.txt", b"Yesterday")
    old = send_url(url)
    assert host("news.txt", b"Today") == url
    new = send_url(url)
    assert (old.size_bytes, new.size_bytes) == (9, 5), (old, new)
    assert [status for _, status in requests_for(url)] == [200, 200], requests_for(url)
    assert (httpx.get(old.url).content, httpx.get(new.url).content) == (b"Yesterday", b"Today")


@step("several URLs in one message keep their order")
def several_urls() -> None:
    sent = send_parts(
        # The first file arrives last.
        {"type": "media", "url": host("slow.jpg?wait=0.5", PHOTO)},
        {"type": "media", "url": host("picture.png", PICTURE)},
        {"type": "text", "value": "and a note"},
        {"type": "media", "attachment_id": Story.photo.attachment_id},
        {"type": "media", "url": host("note.txt", b"Hello")},
    )
    expected = [
        ("slow.jpg", "image/jpeg", PHOTO),
        ("picture.png", "image/png", PICTURE),
        ("photo.jpg", "image/jpeg", PHOTO),
        ("note.txt", "text/plain", b"Hello"),
    ]
    assert [part.type for part in sent.parts] == ["media", "media", "text", "media", "media"], sent.parts
    media = [part for part in sent.parts if isinstance(part, MediaPartResponse)]
    assert [(part.filename, part.mime_type, httpx.get(part.url).content) for part in media] == expected, media
    assert len({part.id for part in media}) == 4, media


@step("a send by URL, twice with one idempotency key, is fetched once")
def idempotent_url() -> None:
    url = host("once.jpg", PHOTO)
    key = f"python-{uuid.uuid4()}"
    first, second = [
        client.messages.create(
            to=[MEDIA_FRIEND], message={"parts": [{"type": "media", "url": url}]}, idempotency_key=key
        )
        for _ in range(2)
    ]
    assert second.message.id == first.message.id, second
    assert requests_for(url) == [(None, 200)]


@step("the URL of a stored file is that attachment again")
def own_url() -> None:
    before = httpx.get(f"{ORIGIN_CONTROL}/requests").json()
    part = send_url(Story.photo_url)
    assert part.id == Story.photo.attachment_id and part.url == Story.photo_url, part
    assert httpx.get(f"{ORIGIN_CONTROL}/requests").json() == before


@step("the type of an upload is detected by its bytes")
def detected_by_bytes() -> None:
    created = upload("picture.jpg", PICTURE)
    attachment = client.attachments.retrieve(created.attachment_id)
    assert (attachment.status, attachment.content_type) == ("complete", "image/jpeg"), attachment
    (part,) = send_parts({"type": "media", "attachment_id": created.attachment_id}).parts
    assert isinstance(part, MediaPartResponse) and part.mime_type == "image/png", part
    assert httpx.get(part.url).headers["Content-Type"] == "image/png"


# --- voice memos, and variants ---


@step("send a voice memo by attachment id")
def memo_by_id() -> None:
    Story.memo_chat_id = start_chat(MEMO_FRIEND, "Listen")
    attachment_id = upload("memo.m4a", MEMO, "audio/x-m4a").attachment_id
    Story.memo = send_memo(attachment_id=attachment_id)
    memo = Story.memo.voice_memo
    assert memo.id == attachment_id, memo
    assert (memo.filename, memo.mime_type, memo.size_bytes) == ("memo.m4a", "audio/x-m4a", len(MEMO)), memo
    assert httpx.get(memo.url).content == MEMO
    assert client.attachments.retrieve(attachment_id).download_url == memo.url, memo


@step("a voice memo is a message with one media part")
def memo_message() -> None:
    memo = Story.memo.voice_memo
    message = wait_until_delivered(Story.memo.id)
    assert message.chat_id == Story.memo_chat_id and message.is_from_me and message.from_ == LINE, message
    assert message.created_at == Story.memo.created_at, (message, Story.memo)
    assert message.parts is not None and len(message.parts) == 1, message
    part = media_part(message)
    assert (part.id, part.url, part.filename) == (memo.id, memo.url, memo.filename), (part, memo)
    assert (part.mime_type, part.size_bytes) == (memo.mime_type, memo.size_bytes), (part, memo)
    newest, _ = client.chats.messages.list(Story.memo_chat_id)
    assert newest.id == message.id and newest.parts == message.parts, newest


@step("send a voice memo by URL")
def memo_by_url() -> None:
    url = host("from%20me.m4a", MEMO)
    fetched = send_memo(voice_memo_url=url, override_optout=True).voice_memo
    assert requests_for(url) == [(None, 200)]
    assert (fetched.filename, fetched.mime_type) == ("from me.m4a", "audio/x-m4a"), fetched
    assert httpx.get(fetched.url).content == MEMO
    assert client.attachments.retrieve(fetched.id).download_url == fetched.url, fetched
    # The URL of a stored file names its attachment.
    assert send_memo(voice_memo_url=Story.memo.voice_memo.url).voice_memo == Story.memo.voice_memo


@step("a TIFF is delivered as JPEG")
def tiff_as_jpeg() -> None:
    scan = (CORPUS / "scan-le.tiff").read_bytes()
    attachment_id = upload("scan.tiff", scan, "image/tiff").attachment_id
    (part,) = send_parts({"type": "media", "attachment_id": attachment_id}).parts
    assert isinstance(part, MediaPartResponse), part
    assert (part.id, part.filename, part.mime_type) == (attachment_id, "scan.jpg", "image/jpeg"), part
    delivered = httpx.get(part.url)
    assert delivered.status_code == 200 and delivered.headers["Content-Type"] == "image/jpeg", delivered.headers
    assert delivered.content.startswith(b"\xff\xd8\xff") and len(delivered.content) == part.size_bytes, part

    attachment = client.attachments.retrieve(attachment_id)
    assert (attachment.filename, attachment.content_type) == ("scan.tiff", "image/tiff"), attachment
    assert attachment.size_bytes == len(scan) and attachment.download_url, attachment
    original = httpx.get(attachment.download_url)
    assert original.headers["Content-Type"] == "image/tiff" and original.content == scan, original.headers


@step("a CAF is delivered as M4A if the server has ffmpeg")
def caf_as_m4a() -> None:
    ready = httpx.get(client.base_url.join("/readyz")).text
    assert re.match("ready\nffmpeg: .+\n", ready), ready
    converts = "ffmpeg: none" not in ready
    expected = ("voice.m4a", "audio/mp4") if converts else ("voice.caf", "audio/x-caf")
    voice = (CORPUS / "voice-pcm.caf").read_bytes()
    attachment_id = upload("voice.caf", voice, "audio/x-caf").attachment_id
    (part,) = send_parts({"type": "media", "attachment_id": attachment_id}).parts
    assert isinstance(part, MediaPartResponse), part
    assert (part.id, part.filename, part.mime_type) == (attachment_id, *expected), part
    delivered = httpx.get(part.url)
    assert delivered.status_code == 200 and delivered.headers["Content-Type"] == part.mime_type, delivered.headers
    assert len(delivered.content) == part.size_bytes and (delivered.content == voice) is not converts, part
    memo = send_memo(attachment_id=attachment_id).voice_memo
    assert (memo.filename, memo.mime_type, memo.url) == (*expected, part.url), memo

    attachment = client.attachments.retrieve(attachment_id)
    assert (attachment.filename, attachment.content_type) == ("voice.caf", "audio/x-caf"), attachment
    assert attachment.download_url and httpx.get(attachment.download_url).content == voice, attachment


# --- errors, as exceptions of the client ---


@step("a wrong key: AuthenticationError")
def wrong_key() -> None:
    stranger = client.with_options(api_key="not-a-key")
    fails(linq.AuthenticationError, 2004, lambda: stranger.phone_numbers.list())


@step("an invalid attachment: BadRequestError")
def refused_attachments() -> None:
    def create(**changes: Any) -> AttachmentCreateResponse:
        good: dict[str, Any] = {"filename": "photo.jpg", "content_type": "image/jpeg", "size_bytes": 1}
        return client.attachments.create(**{**good, **changes})

    fails(linq.BadRequestError, 5004, lambda: create(content_type="application/octet-stream"))
    fails(linq.BadRequestError, 5005, lambda: create(size_bytes=104_857_601))
    fails(linq.BadRequestError, 1005, lambda: create(size_bytes=0))
    fails(linq.BadRequestError, 1001, lambda: create(filename=""))
    fails(linq.BadRequestError, 1001, lambda: create(filename=linq.omit))


@step("a malformed message: BadRequestError")
def malformed_messages() -> None:
    text: Any = {"type": "text", "value": "Hello"}
    link: Any = {"type": "link", "value": "https://example.com/"}

    def create(to: str, *parts: Any) -> Any:
        return client.chats.create(from_=LINE, to=[to], message={"parts": parts})

    fails(linq.BadRequestError, 1004, lambda: create(STRANGER))
    fails(linq.BadRequestError, 1004, lambda: create(STRANGER, text, text))
    fails(linq.BadRequestError, 1002, lambda: create("2025552006", text))
    fails(linq.BadRequestError, 1005, lambda: create(STRANGER, link))
    fails(
        linq.BadRequestError, 1005, lambda: create(STRANGER, {"type": "text", "value": "See https://example.com/"})
    )
    assert list(client.chats.list_chats(to=STRANGER)) == [], "a refused send left a chat behind"


@step("an id that is no UUID: BadRequestError")
def malformed_ids() -> None:
    fails(linq.BadRequestError, 1005, lambda: client.attachments.retrieve("not-a-uuid"))
    fails(linq.BadRequestError, 1005, lambda: client.attachments.delete("not-a-uuid"))
    fails(linq.BadRequestError, 1005, lambda: client.chats.retrieve("not-a-uuid"))
    fails(linq.BadRequestError, 1005, lambda: client.messages.retrieve("not-a-uuid"))


@step("an unknown id: NotFoundError")
def unknown_ids() -> None:
    unknown = str(uuid.uuid4())
    fails(linq.NotFoundError, 2001, lambda: client.chats.retrieve(unknown))
    fails(linq.NotFoundError, 2002, lambda: client.messages.retrieve(unknown))
    fails(linq.NotFoundError, 2003, lambda: client.attachments.retrieve(unknown))


@step("another partner's line: PermissionDeniedError")
def foreign_line() -> None:
    foreign = other.phone_numbers.list().phone_numbers[0].phone_number
    fails(linq.PermissionDeniedError, 2006, lambda: start_chat(STRANGER, "Hello", from_=foreign))


@step("resources of another partner: NotFoundError")
def foreign_resources() -> None:
    theirs = other.attachments.create(
        filename="theirs.jpg", content_type="image/jpeg", size_bytes=len(PHOTO)
    ).attachment_id
    part: Any = {"type": "media", "attachment_id": theirs}
    fails(linq.NotFoundError, 2003, lambda: client.attachments.retrieve(theirs))
    fails(linq.NotFoundError, 2003, lambda: client.attachments.delete(theirs))
    fails(
        linq.NotFoundError,
        2003,
        lambda: client.chats.messages.send(Story.chat_id, message={"parts": [part]}),
    )
    fails(linq.NotFoundError, 2001, lambda: other.chats.retrieve(Story.chat_id))
    fails(linq.NotFoundError, 2002, lambda: other.messages.retrieve(Story.first_message_id))
    assert other.attachments.retrieve(theirs).status == "pending"


@step("another partner's stored file by URL: NotFoundError")
def foreign_urls() -> None:
    theirs = upload("theirs.jpg", PHOTO, by=other)
    assert httpx.get(theirs.download_url).content == PHOTO
    fails(linq.NotFoundError, 2003, lambda: send_url(theirs.download_url, to=STRANGER))
    # An own attachment without an upload.
    waiting = client.attachments.create(filename="photo.jpg", content_type="image/jpeg", size_bytes=1)
    fails(linq.NotFoundError, 2007, lambda: send_url(waiting.download_url, to=STRANGER))


@step("a URL without a file: InternalServerError")
def unreachable_urls() -> None:
    missing = f"{ORIGIN}/python/missing.jpg"
    error = fails(linq.InternalServerError, 5002, lambda: send_url(missing, to=STRANGER))
    assert f"{missing}: the host answered 404" in error.message, error.message
    assert requests_for(missing) == [(None, 404)]
    error = fails(linq.InternalServerError, 5002, lambda: send_url("https://10.0.0.1/a.jpg", to=STRANGER))
    assert "its address is not public" in error.message, error.message


@step("a URL of an unsupported file: BadRequestError")
def refused_urls() -> None:
    def refused(code: int, url: str, reason: str) -> None:
        error = fails(linq.BadRequestError, code, lambda: send_url(url, to=STRANGER))
        assert reason in error.message, error.message

    refused(5006, host("picture.jpg", PICTURE), "picture.jpg is a PNG image (image/png)")
    refused(5006, host("page.jpg", (CORPUS / "page-named.jpg").read_bytes()), "page.jpg is an HTML page (text/html)")
    refused(5004, host("program.jpg", (CORPUS / "elf-named.jpg").read_bytes()), "program.jpg holds a Linux program")
    refused(5004, host("junk.jpg", bytes(range(256))), "junk.jpg is no file of a supported type")
    refused(5005, host("large.jpg", PHOTO + bytes(10 * 1024 * 1024)), "the file is larger than 10 MiB")
    refused(1005, f"{ORIGIN_CONTROL}/python/picture.png", "it does not start with https://")
    # One invalid file fails the whole message.
    good, bad = [{"type": "media", "url": host(path, PHOTO)} for path in ("photo.jpg", "photo.png")]
    fails(linq.BadRequestError, 5006, lambda: send_parts(good, bad, to=STRANGER))
    assert list(client.chats.list_chats(to=STRANGER)) == [], "a refused send left a chat behind"


@step("an upload of another type than declared: BadRequestError")
def refused_bytes() -> None:
    # The PUT itself succeeds, as it would on a bucket.
    failed = upload("page.jpg", (CORPUS / "page-named.jpg").read_bytes()).attachment_id
    attachment = client.attachments.retrieve(failed)
    assert attachment.status == "failed" and attachment.download_url is None, attachment
    part: Any = {"type": "media", "attachment_id": failed}
    error = fails(linq.BadRequestError, 5004, lambda: send_parts(part, to=STRANGER))
    assert "page.jpg holds an HTML page, not a JPEG image" in error.message, error.message


@step("an invalid voice memo: BadRequestError")
def refused_memos() -> None:
    def refused(code: int, reason: str, **source: Any) -> None:
        error = fails(linq.BadRequestError, code, lambda: send_memo(**source))
        assert reason in error.message, error.message

    before = [message.id for message in client.chats.messages.list(Story.memo_chat_id)]
    clip = (CORPUS / "clip.mp4").read_bytes()
    video = upload("clip.mp4", clip, "video/mp4").attachment_id
    refused(1001, "voice_memo_url or attachment_id")
    refused(1005, "not both", attachment_id=Story.memo.voice_memo.id, voice_memo_url=host("memo.m4a", MEMO))
    refused(1005, "it does not start with https://", voice_memo_url=f"{ORIGIN_CONTROL}/python/memo.m4a")
    refused(1005, "not a UUID", attachment_id="not-a-uuid")
    refused(5004, "clip.mp4 is an MP4 video", attachment_id=video)
    refused(5004, "clip.mp4 is an MP4 video", voice_memo_url=host("clip.mp4", clip))
    refused(5004, "photo.jpg is a JPEG image", attachment_id=Story.photo.attachment_id)
    refused(5004, "photo.jpg is a JPEG image", voice_memo_url=host("photo.jpg", PHOTO))
    assert [message.id for message in client.chats.messages.list(Story.memo_chat_id)] == before


@step("a voice memo that is too large: APIStatusError")
def large_memos() -> None:
    large = (CORPUS / "sound.wav").read_bytes().ljust(10 * 1024 * 1024 + 1, b"\0")
    for source in (
        {"voice_memo_url": host("large.wav", large)},
        {"attachment_id": upload("large.wav", large, "audio/x-wav").attachment_id},
    ):
        # The client has no specific exception for this status.
        error = fails(linq.APIStatusError, 5005, lambda: send_memo(**source))
        assert error.status_code == 413 and "too large for a voice memo" in error.message, error.message


@step("a voice memo with an unknown attachment or chat: NotFoundError")
def unknown_memos() -> None:
    unknown = str(uuid.uuid4())
    known = Story.memo.voice_memo
    fails(linq.NotFoundError, 2003, lambda: send_memo(attachment_id=unknown))
    fails(linq.NotFoundError, 2001, lambda: client.chats.send_voicememo(unknown, attachment_id=known.id))
    # Both exist, but belong to another partner.
    theirs = upload("memo.m4a", MEMO, "audio/x-m4a", by=other)
    fails(linq.NotFoundError, 2003, lambda: send_memo(attachment_id=theirs.attachment_id))
    fails(linq.NotFoundError, 2003, lambda: send_memo(voice_memo_url=theirs.download_url))
    fails(
        linq.NotFoundError,
        2001,
        lambda: other.chats.send_voicememo(Story.memo_chat_id, attachment_id=theirs.attachment_id),
    )


@step("a voice memo URL without a file: InternalServerError")
def unreachable_memos() -> None:
    missing = f"{ORIGIN}/python/missing.m4a"
    error = fails(linq.InternalServerError, 5002, lambda: send_memo(voice_memo_url=missing))
    assert f"{missing}: the host answered 404" in error.message, error.message


@step("an unsupported feature: PermissionDeniedError")
def unsupported_features() -> None:
    fails(linq.PermissionDeniedError, 2011, lambda: client.contact_card.retrieve())
    fails(linq.PermissionDeniedError, 2011, lambda: client.chats.location.request(Story.chat_id))
    fails(
        linq.PermissionDeniedError,
        2011,
        lambda: client.chats.polls.create(Story.chat_id, poll={"options": [{"text": "Tea"}, {"text": "Coffee"}]}),
    )


@step("the 31st message in a minute: RateLimitError")
def rate_limit() -> None:
    key = f"python-{uuid.uuid4()}"
    first = client.chats.create(
        from_=LINE,
        to=[BUSY_FRIEND],
        message={"parts": [{"type": "text", "value": "Number 1"}], "idempotency_key": key},
    ).chat
    for number in range(2, 31):
        say(first.id, f"Number {number}")

    error = fails(linq.RateLimitError, 1007, lambda: say(first.id, "Number 31"))
    assert error.retry_after is not None and 1 <= error.retry_after <= 60, error.body
    assert error.response.headers["Retry-After"] == str(error.retry_after), error.response.headers

    # A repeated send gets its stored response in spite of the rate limit.
    repeated = client.chats.create(
        from_=LINE,
        to=[BUSY_FRIEND],
        message={"parts": [{"type": "text", "value": "Number 1"}], "idempotency_key": key},
    ).chat
    assert repeated.message.id == first.message.id, repeated


def main() -> int:
    failed = 0
    for title, run in steps:
        try:
            run()
        except Exception as error:
            failed += 1
            here = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == __file__][-1]
            # The client's exceptions hide the one that they wrap.
            why = error.__cause__ or str(error) or here.line
            print(f"FAIL python: {title}: line {here.lineno}: {type(error).__name__}: {why}", flush=True)
        else:
            print(f"ok   python: {title}", flush=True)
    print(f"{len(steps) - failed} passed, {failed} failed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
