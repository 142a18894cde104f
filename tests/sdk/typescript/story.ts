// The complete story: the official TypeScript client against a running server.
// Settings come from the environment; see ../run.sh.

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import LinqAPIV3, {
  APIError,
  AuthenticationError,
  BadRequestError,
  InternalServerError,
  NotFoundError,
  PermissionDeniedError,
  RateLimitError,
} from '@linqapp/sdk';

function setting(name: string): string {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set`);
  return value;
}

function sample(name: string): Promise<Buffer> {
  return readFile(`${setting('STORY_CORPUS')}/${name}`);
}

const LINE = setting('STORY_LINE');
const SECOND_LINE = setting('STORY_SECOND_LINE');
const PHOTO = await readFile(setting('STORY_PHOTO'));
const PICTURE = await sample('alpha-interlaced.png');
// Audio of 2.5 seconds.
const MEMO = await sample('voice.m4a');

// The origin of files fetched by URL (see origin.py): its URL, and the URL of its control interface.
const ORIGIN = setting('STORY_ORIGIN');
const ORIGIN_CONTROL = setting('STORY_ORIGIN_CONTROL');

// Every recipient here starts with +12025553, so that this story and the Python one do not share a rate limit.
const FRIEND = '+12025553001';
const LIST_FRIENDS = ['+12025553002', '+12025553003', '+12025553004'];
const NEW_FRIEND = '+12025553005';
const STRANGER = '+12025553006';
const BUSY_FRIEND = '+12025553007';
const MEDIA_FRIEND = '+12025553008';
const MEMO_FRIEND = '+12025553009';

// No retries, since a second attempt would hide the failure of the first.
const client = new LinqAPIV3({ maxRetries: 0 });
const other = client.withOptions({ apiKey: setting('STORY_OTHER_API_KEY') });

const steps: Array<{ title: string; run: () => Promise<void> }> = [];

function step(title: string, run: () => Promise<void>): void {
  steps.push({ title, run });
}

// Results of earlier steps that later ones use.
let photo: LinqAPIV3.AttachmentCreateResponse;
let photoUrl: string;
let chatId: string;
let firstMessageId: string;
let replyId: string;
let hostedPhoto: string;
let fetchedPhoto: LinqAPIV3.MediaPartResponse;
let memoChatId: string;
let sentMemo: LinqAPIV3.ChatSendVoicememoResponse.VoiceMemo;

/** The field `error` of the client's exceptions: the complete error body. */
interface ErrorBody {
  success: false;
  error: { status: number; code: number; message: string; doc_url: string; retry_after?: number };
  trace_id: string;
}

interface Failure {
  body: ErrorBody;
  headers: Headers | undefined;
}

type ErrorClass = abstract new (...args: never[]) => APIError;

/** Asserts that the call rejects with this exception, this code and a complete error body. */
async function fails(kind: ErrorClass, code: number, call: Promise<unknown>): Promise<Failure> {
  const error = await call.then(
    (answer) => assert.fail(`expected ${kind.name} ${code}, got ${JSON.stringify(answer)}`),
    (reason: unknown) => reason,
  );
  if (!(error instanceof kind)) throw error;
  const body = error.error as ErrorBody;
  assert.equal(body.error.code, code, `expected code ${code}: ${error.message}`);
  assert.equal(body.error.status, error.status);
  assert.equal(body.success, false);
  assert.ok(body.error.message);
  assert.equal(
    body.error.doc_url,
    `https://docs.linqapp.com/error/codes/${Math.floor(code / 1000)}xxx/${code}/`,
  );
  assert.match(body.trace_id, /^[0-9a-f]{32}$/);
  assert.equal(error.headers?.get('X-Trace-ID'), body.trace_id);
  return { body, headers: error.headers };
}

async function upload(
  filename: string,
  content: Buffer,
  contentType: LinqAPIV3.AttachmentCreateParams['content_type'] = 'image/jpeg',
  by = client,
): Promise<LinqAPIV3.AttachmentCreateResponse> {
  const created = await by.attachments.create({
    filename,
    content_type: contentType,
    size_bytes: content.length,
  });
  const answer = await put(created, created.required_headers, content);
  assert.equal(answer.status, 200, await answer.text());
  return created;
}

function put(
  to: LinqAPIV3.AttachmentCreateResponse,
  headers: Record<string, string>,
  body: Buffer,
): Promise<Response> {
  return fetch(to.upload_url, { method: to.http_method, headers, body });
}

async function waitUntilDelivered(messageId: string): Promise<LinqAPIV3.Message> {
  const deadline = Date.now() + 5000;
  for (;;) {
    const message = await client.messages.retrieve(messageId);
    if (message.delivery_status === 'delivered') return message;
    assert.ok(Date.now() < deadline, `still ${message.delivery_status} after 5 s`);
    await sleep(50);
  }
}

async function say(toChat: string, value: string): Promise<string> {
  const sent = await client.chats.messages.send(toChat, { message: { parts: [{ type: 'text', value }] } });
  return sent.message.id;
}

async function startChat(to: string, value: string, from = LINE): Promise<string> {
  const created = await client.chats.create({ from, to: [to], message: { parts: [{ type: 'text', value }] } });
  return created.chat.id;
}

/** Puts a file on the origin, and returns its URL. */
async function host(path: string, body: Buffer): Promise<string> {
  // Below a path of this story, which the Python one does not request.
  const answer = await fetch(`${ORIGIN_CONTROL}/typescript/${path}`, { method: 'PUT', body });
  assert.equal(answer.status, 204);
  return `${ORIGIN}/typescript/${path}`;
}

interface OriginRequest {
  path: string;
  if_none_match: string | null;
  status: number;
}

/** Returns If-None-Match and response status of every request to the origin for this URL. */
async function requestsFor(url?: string): Promise<OriginRequest[]> {
  const requests = (await (await fetch(`${ORIGIN_CONTROL}/requests`)).json()) as OriginRequest[];
  return requests.filter(({ path }) => url === undefined || ORIGIN + path === url);
}

async function sendParts(parts: LinqAPIV3.MessageContent['parts'], to = MEDIA_FRIEND) {
  return (await client.chats.create({ from: LINE, to: [to], message: { parts } })).chat.message;
}

async function sendUrl(url: string, to = MEDIA_FRIEND): Promise<LinqAPIV3.MediaPartResponse> {
  const [part] = (await sendParts([{ type: 'media', url }], to)).parts;
  assert.ok(part?.type === 'media');
  return part;
}

async function download(url: string): Promise<Buffer> {
  const answer = await fetch(url);
  assert.equal(answer.status, 200);
  return bytes(answer);
}

function mediaPart(message: LinqAPIV3.Message): LinqAPIV3.MediaPartResponse {
  const part = message.parts?.find((part) => part.type === 'media');
  assert.ok(part, `no media part in ${JSON.stringify(message.parts)}`);
  return part;
}

/** Returns all items of all pages, by the client's own pagination. */
async function ids(pages: AsyncIterable<{ id: string }>): Promise<string[]> {
  const all = [];
  for await (const item of pages) all.push(item.id);
  return all;
}

function assertUnique(list: string[]): void {
  assert.equal(new Set(list).size, list.length, `something twice in ${list}`);
}

async function bytes(answer: Response): Promise<Buffer> {
  return Buffer.from(await answer.arrayBuffer());
}

async function statusOf(url: string): Promise<number> {
  const answer = await fetch(url);
  await answer.body?.cancel();
  return answer.status;
}

/** Sends a voice memo, and checks the fields that every response has. */
async function sendMemo(source: LinqAPIV3.ChatSendVoicememoParams) {
  const { voice_memo: sent } = await client.chats.sendVoicememo(memoChatId, source);
  assert.equal(sent.from, LINE);
  assert.deepEqual(sent.to, [MEMO_FRIEND]);
  assert.equal(sent.status, 'queued');
  assert.equal(sent.service, 'iMessage');
  assert.ok(Math.abs(Date.parse(sent.created_at) - Date.now()) < 60_000, sent.created_at);
  assert.equal(sent.chat.id, memoChatId);
  assert.ok(sent.chat.is_active && !sent.chat.is_group);
  assert.equal(sent.chat.service, 'iMessage');
  assert.deepEqual(sent.chat.handles.map(({ handle }) => handle).sort(), [LINE, MEMO_FRIEND].sort());
  const memo = sent.voice_memo;
  // All audio samples have the same duration.
  assert.ok(Math.abs((memo.duration_ms ?? 0) - 2500) <= 50, `${memo.duration_ms} ms`);
  const answer = await fetch(memo.url);
  assert.equal(answer.status, 200);
  assert.equal(answer.headers.get('Content-Type'), memo.mime_type);
  assert.equal((await bytes(answer)).length, memo.size_bytes);
  return sent;
}

// --- successful calls ---

step('list phone numbers', async () => {
  const { phone_numbers } = await client.phoneNumbers.list();
  assert.deepEqual(phone_numbers.map((number) => number.phone_number).sort(), [LINE, SECOND_LINE].sort());
  for (const number of phone_numbers) assert.equal(number.reputation.status, 'HEALTHY');
});

step('list phone numbers by the deprecated endpoint', async () => {
  const { phone_numbers } = await client.phonenumbers.list();
  assert.deepEqual(phone_numbers.map((number) => number.phone_number).sort(), [LINE, SECOND_LINE].sort());
});

step('every response has a fresh trace id', async () => {
  const seen = new Set<string | null>();
  for (let n = 0; n < 3; n++) {
    const { response } = await client.phoneNumbers.list().withResponse();
    seen.add(response.headers.get('X-Trace-ID'));
  }
  assert.equal(seen.size, 3);
  for (const traceId of seen) assert.match(traceId ?? 'none', /^[0-9a-f]{32}$/);
});

step('create an attachment', async () => {
  const created = await client.attachments.create({
    filename: 'photo.jpg',
    content_type: 'image/jpeg',
    size_bytes: PHOTO.length,
  });
  assert.equal(created.http_method, 'PUT');
  assert.deepEqual(created.required_headers, {
    'Content-Type': 'image/jpeg',
    'Content-Length': String(PHOTO.length),
  });
  const minutes = (Date.parse(created.expires_at) - Date.now()) / 60_000;
  assert.ok(minutes > 14 && minutes < 16, `upload_url lives for ${minutes} minutes`);
  assert.equal((await client.attachments.retrieve(created.attachment_id)).status, 'pending');
  photo = created;
});

step('a pending attachment cannot be sent or downloaded', async () => {
  await fails(
    NotFoundError,
    2007,
    client.chats.create({
      from: LINE,
      to: [STRANGER],
      message: { parts: [{ type: 'media', attachment_id: photo.attachment_id }] },
    }),
  );
  assert.equal(await statusOf(photo.download_url), 404);
});

step('an upload with another Content-Type or length is rejected', async () => {
  const attempts = [
    await put(photo, { ...photo.required_headers, 'Content-Type': 'image/png' }, PHOTO),
    // fetch sets Content-Length itself, here one too low.
    await put(photo, { 'Content-Type': 'image/jpeg' }, PHOTO.subarray(0, -1)),
  ];
  for (const answer of attempts) {
    assert.equal(answer.status, 403);
    // Buckets have their own error codes: Garage returns AccessDenied.
    const code = process.env.STORY_BLOBS_URL ? /<Code>/ : /<Code>SignatureDoesNotMatch<\/Code>/;
    assert.match(await answer.text(), code);
  }
  assert.equal((await client.attachments.retrieve(photo.attachment_id)).status, 'pending');
});

step('upload a photo', async () => {
  const answer = await put(photo, photo.required_headers, PHOTO);
  assert.equal(answer.status, 200, await answer.text());
  const attachment = await client.attachments.retrieve(photo.attachment_id);
  assert.equal(attachment.status, 'complete');
  assert.equal(attachment.filename, 'photo.jpg');
  assert.equal(attachment.content_type, 'image/jpeg');
  assert.equal(attachment.size_bytes, PHOTO.length);
  assert.equal(attachment.download_url, photo.download_url);
});

step('send text and photo in a new chat', async () => {
  const { chat } = await client.chats.create({
    from: LINE,
    to: [FRIEND],
    message: {
      parts: [
        { type: 'text', value: 'Look at this' },
        { type: 'media', attachment_id: photo.attachment_id },
      ],
    },
  });
  assert.equal(chat.is_group, false);
  assert.equal(chat.display_name, FRIEND);
  assert.deepEqual(
    new Map(chat.handles.map((handle) => [handle.handle, handle.is_me])),
    new Map([
      [LINE, true],
      [FRIEND, false],
    ]),
  );
  assert.equal(chat.health_status.status, 'HEALTHY');
  assert.equal(chat.message.delivery_status, 'pending');
  assert.equal(chat.message.from_handle?.handle, LINE);
  const [text, media] = chat.message.parts;
  assert.ok(text?.type === 'text' && text.value === 'Look at this');
  assert.ok(media?.type === 'media' && media.id === photo.attachment_id);
  chatId = chat.id;
  firstMessageId = chat.message.id;
});

step('the message is delivered', async () => {
  const message = await waitUntilDelivered(firstMessageId);
  assert.equal(message.chat_id, chatId);
  assert.ok(message.is_from_me && message.is_delivered && !message.is_read);
  assert.equal(message.from, LINE);
  assert.ok(message.sent_at && message.delivered_at);
  const times = [message.created_at, message.sent_at, message.delivered_at].map((time) => Date.parse(time));
  assert.deepEqual(times, times.toSorted(), 'created, sent, delivered: in this order');
  const part = mediaPart(message);
  assert.equal(part.filename, 'photo.jpg');
  assert.equal(part.mime_type, 'image/jpeg');
  assert.equal(part.size_bytes, PHOTO.length);
  photoUrl = part.url;
});

step('download the same bytes', async () => {
  const answer = await fetch(photoUrl);
  assert.equal(answer.status, 200);
  assert.ok(PHOTO.equals(await bytes(answer)), 'other bytes');
  assert.equal(answer.headers.get('Content-Type'), 'image/jpeg');
  assert.equal(answer.headers.get('X-Content-Type-Options'), 'nosniff');
  assert.equal(photoUrl, photo.download_url);

  const etag = answer.headers.get('ETag');
  assert.ok(etag);
  const unchanged = await fetch(photoUrl, { headers: { 'If-None-Match': etag } });
  assert.equal(unchanged.status, 304);
});

step('download a range, and make a HEAD request', async () => {
  const middle = await fetch(photoUrl, { headers: { Range: 'bytes=100-199' } });
  assert.equal(middle.status, 206);
  assert.ok(PHOTO.subarray(100, 200).equals(await bytes(middle)));
  assert.equal(middle.headers.get('Content-Range'), `bytes 100-199/${PHOTO.length}`);

  const end = await fetch(photoUrl, { headers: { Range: 'bytes=-10' } });
  assert.equal(end.status, 206);
  assert.ok(PHOTO.subarray(-10).equals(await bytes(end)));

  const head = await fetch(photoUrl, { method: 'HEAD' });
  assert.equal(head.status, 200);
  assert.equal(head.headers.get('Content-Length'), String(PHOTO.length));
  assert.equal((await bytes(head)).length, 0);
});

step('reply to the photo and read the thread', async () => {
  const { message: reply } = await client.chats.messages.send(chatId, {
    message: {
      parts: [{ type: 'text', value: 'Taken this morning' }],
      reply_to: { message_id: firstMessageId, part_index: 1 },
    },
  });
  assert.deepEqual(reply.reply_to, { message_id: firstMessageId, part_index: 1 });
  replyId = reply.id;

  assert.deepEqual(await ids(client.messages.listMessagesThread(reply.id, { limit: 1 })), [
    firstMessageId,
    reply.id,
  ]);
  assert.deepEqual(await ids(client.messages.listMessagesThread(reply.id, { order: 'desc' })), [
    reply.id,
    firstMessageId,
  ]);
});

step('send a link into the chat', async () => {
  const { message: link } = await client.chats.messages.send(chatId, {
    message: { parts: [{ type: 'link', value: 'https://example.com/album' }] },
  });
  const [part] = link.parts;
  assert.ok(part?.type === 'link' && part.value === 'https://example.com/album');
});

step('creating the same chat again reuses it', async () => {
  assert.equal(await startChat(FRIEND, 'Still here?'), chatId);
});

step('list messages newest first, while another one arrives', async () => {
  const expected: string[] = [];
  for (let number = 0; number < 3; number++) expected.unshift(await say(chatId, `Number ${number}`));
  const listed: string[] = [];
  for await (const message of client.chats.messages.list(chatId, { limit: 2 })) {
    if (listed.length === 0) await say(chatId, 'I arrive between two pages');
    listed.push(message.id);
  }
  assert.deepEqual(listed.slice(0, 3), expected);
  assert.equal(listed.at(-1), firstMessageId);
  assert.equal(listed.length, 7);
  assertUnique(listed);
});

step('get one chat and list chats page by page', async () => {
  const chat = await client.chats.retrieve(chatId);
  assert.equal(chat.id, chatId);
  assert.ok(!chat.is_group && !chat.is_archived);
  assert.ok(Date.parse(chat.created_at) <= Date.parse(chat.updated_at));

  const created: string[] = [];
  for (const to of LIST_FRIENDS) created.unshift(await startChat(to, 'Hello', SECOND_LINE));
  const listed = await ids(client.chats.listChats({ from: SECOND_LINE, limit: 1 }));
  assert.deepEqual(listed.slice(0, 3), created);
  assertUnique(listed);

  assert.deepEqual(await ids(client.chats.listChats({ to: FRIEND })), [chatId]);
});

step('send without a line, twice with one idempotency key', async () => {
  const send = {
    to: [NEW_FRIEND],
    message: { parts: [{ type: 'text', value: 'Only once, please' }] },
    'Idempotency-Key': `typescript-${randomUUID()}`,
  } satisfies LinqAPIV3.MessageCreateParams;
  const first = await client.messages.create(send);
  const second = await client.messages.create(send);
  assert.ok(first.from === LINE || first.from === SECOND_LINE, first.from);
  assert.ok(first.created_new_chat);
  assert.equal(first.from_selection.reason, 'new_best_number');
  assert.equal(second.message.id, first.message.id);
  assert.equal(second.chat_id, first.chat_id);
  assert.equal((await ids(client.chats.messages.list(first.chat_id))).length, 1);

  const again = await client.messages.create({
    to: [NEW_FRIEND],
    message: { parts: [{ type: 'link', value: 'https://example.com/' }] },
  });
  assert.equal(again.chat_id, first.chat_id);
  assert.equal(again.created_new_chat, false);
  assert.deepEqual(again.from_selection, { reason: 'reused_active_chat', reused_existing_chat: true });
});

step('mark as read, start and stop typing', async () => {
  await client.chats.markAsRead(chatId);
  await client.chats.typing.start(chatId);
  await client.chats.typing.stop(chatId);
});

step('delete a message', async () => {
  await client.messages.delete(replyId);
  await fails(NotFoundError, 2002, client.messages.retrieve(replyId));
  await fails(NotFoundError, 2002, client.messages.delete(replyId));
  assert.ok(!(await ids(client.chats.messages.list(chatId))).includes(replyId));
});

step('delete an attachment that was sent', async () => {
  // A filename that needs encoding in URLs and headers.
  const filename = 'Zürich & café #1 50%.jpg';
  const { attachment_id } = await upload(filename, PHOTO);
  const message = { parts: [{ type: 'media' as const, attachment_id }] };
  const messageId = (await client.chats.messages.send(chatId, { message })).message.id;
  const sent = mediaPart(await client.messages.retrieve(messageId));
  assert.equal(sent.filename, filename);
  assert.ok(PHOTO.equals(await bytes(await fetch(sent.url))), 'other bytes');

  await client.attachments.delete(attachment_id);
  await fails(NotFoundError, 2003, client.attachments.retrieve(attachment_id));
  await fails(NotFoundError, 2003, client.attachments.delete(attachment_id));
  await fails(NotFoundError, 2003, client.chats.messages.send(chatId, { message }));
  assert.equal(await statusOf(sent.url), 404);

  const { reactions, ...left } = mediaPart(await client.messages.retrieve(messageId));
  assert.equal(reactions, null);
  assert.deepEqual(left, { type: 'media', id: '', url: '', filename: '', mime_type: '', size_bytes: 0 });
});

// --- media by URL, and detection of types ---

step('send a photo by URL', async () => {
  hostedPhoto = await host('holiday%20photo.jpg?size=large', PHOTO);
  const sent = await sendParts([
    { type: 'text', value: 'From the web' },
    { type: 'media', url: hostedPhoto },
  ]);
  const [, part] = sent.parts;
  assert.ok(part?.type === 'media');
  assert.equal(part.filename, 'holiday photo.jpg');
  assert.equal(part.mime_type, 'image/jpeg');
  assert.equal(part.size_bytes, PHOTO.length);
  const [request, ...more] = await requestsFor(hostedPhoto);
  assert.ok(request?.status === 200 && request.if_none_match === null && more.length === 0);
  assert.deepEqual(mediaPart(await waitUntilDelivered(sent.id)), part);
  fetchedPhoto = part;
});

step('a fetched file is a stored attachment', async () => {
  const answer = await fetch(fetchedPhoto.url);
  assert.equal(answer.status, 200);
  assert.ok(PHOTO.equals(await bytes(answer)), 'other bytes');
  assert.equal(answer.headers.get('Content-Type'), 'image/jpeg');
  const attachment = await client.attachments.retrieve(fetchedPhoto.id);
  assert.equal(attachment.status, 'complete');
  assert.equal(attachment.filename, 'holiday photo.jpg');
  assert.equal(attachment.content_type, 'image/jpeg');
  assert.equal(attachment.size_bytes, PHOTO.length);
  assert.equal(attachment.download_url, fetchedPhoto.url);
});

step('the same URL again is a new attachment, revalidated with the origin', async () => {
  const part = await sendUrl(hostedPhoto);
  assert.notEqual(part.id, fetchedPhoto.id);
  assert.notEqual(part.url, fetchedPhoto.url);
  assert.equal(part.filename, 'holiday photo.jpg');
  assert.equal(part.mime_type, 'image/jpeg');
  assert.equal(part.size_bytes, PHOTO.length);
  const [, request] = await requestsFor(hostedPhoto);
  assert.ok(request?.status === 304 && request.if_none_match);
  assert.ok(PHOTO.equals(await download(part.url)), 'other bytes');

  // The attachments are deleted separately, although they share a blob.
  await client.attachments.delete(fetchedPhoto.id);
  assert.equal(await statusOf(fetchedPhoto.url), 404);
  assert.ok(PHOTO.equals(await download(part.url)), 'other bytes');
  assert.equal((await client.attachments.retrieve(part.id)).status, 'complete');
});

step('a file that changed at its URL is fetched anew', async () => {
  const url = await host('news.txt', Buffer.from('Yesterday'));
  const old = await sendUrl(url);
  assert.equal(await host('news.txt', Buffer.from('Today')), url);
  const now = await sendUrl(url);
  assert.deepEqual([old.size_bytes, now.size_bytes], [9, 5]);
  assert.deepEqual((await requestsFor(url)).map(({ status }) => status), [200, 200]);
  assert.equal(String(await download(old.url)), 'Yesterday');
  assert.equal(String(await download(now.url)), 'Today');
});

step('several URLs in one message keep their order', async () => {
  const sent = await sendParts([
    // The first file arrives last.
    { type: 'media', url: await host('slow.jpg?wait=0.5', PHOTO) },
    { type: 'media', url: await host('picture.png', PICTURE) },
    { type: 'text', value: 'and a note' },
    { type: 'media', attachment_id: photo.attachment_id },
    { type: 'media', url: await host('note.txt', Buffer.from('Hello')) },
  ]);
  const expected = [
    ['slow.jpg', 'image/jpeg', PHOTO],
    ['picture.png', 'image/png', PICTURE],
    ['photo.jpg', 'image/jpeg', PHOTO],
    ['note.txt', 'text/plain', Buffer.from('Hello')],
  ];
  assert.deepEqual(sent.parts.map((part) => part.type), ['media', 'media', 'text', 'media', 'media']);
  const media = sent.parts.filter((part) => part.type === 'media');
  const found = [];
  for (const part of media) found.push([part.filename, part.mime_type, await download(part.url)]);
  assert.deepEqual(found, expected);
  assertUnique(media.map((part) => part.id));
});

step('a send by URL, twice with one idempotency key, is fetched once', async () => {
  const url = await host('once.jpg', PHOTO);
  const send = {
    to: [MEDIA_FRIEND],
    message: { parts: [{ type: 'media', url }] },
    'Idempotency-Key': `typescript-${randomUUID()}`,
  } satisfies LinqAPIV3.MessageCreateParams;
  const first = await client.messages.create(send);
  const second = await client.messages.create(send);
  assert.equal(second.message.id, first.message.id);
  assert.equal((await requestsFor(url)).length, 1);
});

step('the URL of a stored file is that attachment again', async () => {
  const before = await requestsFor();
  const part = await sendUrl(photoUrl);
  assert.equal(part.id, photo.attachment_id);
  assert.equal(part.url, photoUrl);
  assert.deepEqual(await requestsFor(), before);
});

step('the type of an upload is detected by its bytes', async () => {
  const { attachment_id } = await upload('picture.jpg', PICTURE);
  const attachment = await client.attachments.retrieve(attachment_id);
  assert.equal(attachment.status, 'complete');
  assert.equal(attachment.content_type, 'image/jpeg');
  const [part] = (await sendParts([{ type: 'media', attachment_id }])).parts;
  assert.ok(part?.type === 'media' && part.mime_type === 'image/png');
  assert.equal((await fetch(part.url)).headers.get('Content-Type'), 'image/png');
});

// --- voice memos, and variants ---

step('send a voice memo by attachment id', async () => {
  memoChatId = await startChat(MEMO_FRIEND, 'Listen');
  const { attachment_id } = await upload('memo.m4a', MEMO, 'audio/x-m4a');
  sentMemo = await sendMemo({ attachment_id });
  const memo = sentMemo.voice_memo;
  assert.equal(memo.id, attachment_id);
  assert.equal(memo.filename, 'memo.m4a');
  assert.equal(memo.mime_type, 'audio/x-m4a');
  assert.ok(MEMO.equals(await download(memo.url)), 'other bytes');
  assert.equal((await client.attachments.retrieve(attachment_id)).download_url, memo.url);
});

step('a voice memo is a message with one media part', async () => {
  const message = await waitUntilDelivered(sentMemo.id);
  assert.equal(message.chat_id, memoChatId);
  assert.ok(message.is_from_me);
  assert.equal(message.from, LINE);
  assert.equal(message.created_at, sentMemo.created_at);
  assert.equal(message.parts?.length, 1);
  const { type, reactions, ...part } = mediaPart(message);
  assert.deepEqual([type, reactions], ['media', null]);
  const { duration_ms: _, ...memo } = sentMemo.voice_memo;
  assert.deepEqual(part, memo);
  const listed = [];
  for await (const message of client.chats.messages.list(memoChatId)) listed.push(message);
  assert.equal(listed.length, 2);
  assert.equal(listed[0]?.id, message.id);
  assert.deepEqual(listed[0]?.parts, message.parts);
});

step('send a voice memo by URL', async () => {
  const url = await host('from%20me.m4a', MEMO);
  const { voice_memo: fetched } = await sendMemo({ voice_memo_url: url });
  assert.deepEqual((await requestsFor(url)).map(({ status }) => status), [200]);
  assert.equal(fetched.filename, 'from me.m4a');
  assert.equal(fetched.mime_type, 'audio/x-m4a');
  assert.ok(MEMO.equals(await download(fetched.url)), 'other bytes');
  assert.equal((await client.attachments.retrieve(fetched.id)).download_url, fetched.url);
  // The URL of a stored file names its attachment.
  const again = await sendMemo({ voice_memo_url: sentMemo.voice_memo.url });
  assert.deepEqual(again.voice_memo, sentMemo.voice_memo);
});

step('a TIFF is delivered as JPEG', async () => {
  const scan = await sample('scan-le.tiff');
  const { attachment_id } = await upload('scan.tiff', scan, 'image/tiff');
  const [part] = (await sendParts([{ type: 'media', attachment_id }])).parts;
  assert.ok(part?.type === 'media' && part.id === attachment_id);
  assert.equal(part.filename, 'scan.jpg');
  assert.equal(part.mime_type, 'image/jpeg');
  const answer = await fetch(part.url);
  assert.equal(answer.status, 200);
  assert.equal(answer.headers.get('Content-Type'), 'image/jpeg');
  const delivered = await bytes(answer);
  assert.equal(delivered.length, part.size_bytes);
  assert.equal(delivered.toString('hex', 0, 3), 'ffd8ff');

  const attachment = await client.attachments.retrieve(attachment_id);
  assert.equal(attachment.filename, 'scan.tiff');
  assert.equal(attachment.content_type, 'image/tiff');
  assert.equal(attachment.size_bytes, scan.length);
  assert.ok(attachment.download_url);
  const original = await fetch(attachment.download_url);
  assert.equal(original.headers.get('Content-Type'), 'image/tiff');
  assert.ok(scan.equals(await bytes(original)), 'other bytes');
});

step('a CAF is delivered as M4A if the server has ffmpeg', async () => {
  const ready = await (await fetch(new URL('/readyz', client.baseURL))).text();
  assert.match(ready, /^ready\nffmpeg: .+\n/);
  const converts = !ready.includes('ffmpeg: none');
  const [filename, mimeType] = converts ? ['voice.m4a', 'audio/mp4'] : ['voice.caf', 'audio/x-caf'];
  const voice = await sample('voice-pcm.caf');
  const { attachment_id } = await upload('voice.caf', voice, 'audio/x-caf');
  const [part] = (await sendParts([{ type: 'media', attachment_id }])).parts;
  assert.ok(part?.type === 'media' && part.id === attachment_id);
  assert.equal(part.filename, filename);
  assert.equal(part.mime_type, mimeType);
  const answer = await fetch(part.url);
  assert.equal(answer.status, 200);
  assert.equal(answer.headers.get('Content-Type'), mimeType);
  const delivered = await bytes(answer);
  assert.equal(delivered.length, part.size_bytes);
  assert.equal(delivered.equals(voice), !converts);
  const { voice_memo: memo } = await sendMemo({ attachment_id });
  assert.deepEqual([memo.filename, memo.mime_type, memo.url], [filename, mimeType, part.url]);

  const attachment = await client.attachments.retrieve(attachment_id);
  assert.equal(attachment.filename, 'voice.caf');
  assert.equal(attachment.content_type, 'audio/x-caf');
  assert.ok(attachment.download_url);
  assert.ok(voice.equals(await download(attachment.download_url)), 'other bytes');
});

// --- errors, as exceptions of the client ---

step('a wrong key: AuthenticationError', async () => {
  const stranger = client.withOptions({ apiKey: 'not-a-key' });
  await fails(AuthenticationError, 2004, stranger.phoneNumbers.list());
});

step('an invalid attachment: BadRequestError', async () => {
  const good = { filename: 'photo.jpg', content_type: 'image/jpeg', size_bytes: 1 } as const;
  const { filename: _, ...nameless } = good;

  // @ts-expect-error the types forbid this content type too
  await fails(BadRequestError, 5004, client.attachments.create({ ...good, content_type: 'application/octet-stream' }));
  await fails(BadRequestError, 5005, client.attachments.create({ ...good, size_bytes: 104_857_601 }));
  await fails(BadRequestError, 1005, client.attachments.create({ ...good, size_bytes: 0 }));
  await fails(BadRequestError, 1001, client.attachments.create({ ...good, filename: '' }));
  // @ts-expect-error the types forbid a missing filename too
  await fails(BadRequestError, 1001, client.attachments.create(nameless));
});

step('a malformed message: BadRequestError', async () => {
  const text = { type: 'text', value: 'Hello' } as const;
  const link = { type: 'link', value: 'https://example.com/' } as const;
  const create = (to: string, ...parts: LinqAPIV3.MessageContent['parts']) =>
    client.chats.create({ from: LINE, to: [to], message: { parts } });

  await fails(BadRequestError, 1004, create(STRANGER));
  await fails(BadRequestError, 1004, create(STRANGER, text, text));
  await fails(BadRequestError, 1002, create('2025553006', text));
  await fails(BadRequestError, 1005, create(STRANGER, link));
  await fails(BadRequestError, 1005, create(STRANGER, { type: 'text', value: 'See https://example.com/' }));
  assert.deepEqual(await ids(client.chats.listChats({ to: STRANGER })), [], 'a refused send left a chat behind');
});

step('an id that is no UUID: BadRequestError', async () => {
  await fails(BadRequestError, 1005, client.attachments.retrieve('not-a-uuid'));
  await fails(BadRequestError, 1005, client.attachments.delete('not-a-uuid'));
  await fails(BadRequestError, 1005, client.chats.retrieve('not-a-uuid'));
  await fails(BadRequestError, 1005, client.messages.retrieve('not-a-uuid'));
});

step('an unknown id: NotFoundError', async () => {
  await fails(NotFoundError, 2001, client.chats.retrieve(randomUUID()));
  await fails(NotFoundError, 2002, client.messages.retrieve(randomUUID()));
  await fails(NotFoundError, 2003, client.attachments.retrieve(randomUUID()));
});

step("another partner's line: PermissionDeniedError", async () => {
  const foreign = (await other.phoneNumbers.list()).phone_numbers[0]?.phone_number;
  await fails(PermissionDeniedError, 2006, startChat(STRANGER, 'Hello', foreign));
});

step("resources of another partner: NotFoundError", async () => {
  const theirs = await other.attachments.create({
    filename: 'theirs.jpg',
    content_type: 'image/jpeg',
    size_bytes: PHOTO.length,
  });
  const { attachment_id } = theirs;
  await fails(NotFoundError, 2003, client.attachments.retrieve(attachment_id));
  await fails(NotFoundError, 2003, client.attachments.delete(attachment_id));
  await fails(
    NotFoundError,
    2003,
    client.chats.messages.send(chatId, { message: { parts: [{ type: 'media', attachment_id }] } }),
  );
  await fails(NotFoundError, 2001, other.chats.retrieve(chatId));
  await fails(NotFoundError, 2002, other.messages.retrieve(firstMessageId));
  assert.equal((await other.attachments.retrieve(attachment_id)).status, 'pending');
});

step("another partner's stored file by URL: NotFoundError", async () => {
  const theirs = await upload('theirs.jpg', PHOTO, 'image/jpeg', other);
  assert.ok(PHOTO.equals(await download(theirs.download_url)), 'other bytes');
  await fails(NotFoundError, 2003, sendUrl(theirs.download_url, STRANGER));
  // An own attachment without an upload.
  const waiting = await client.attachments.create({
    filename: 'photo.jpg',
    content_type: 'image/jpeg',
    size_bytes: 1,
  });
  await fails(NotFoundError, 2007, sendUrl(waiting.download_url, STRANGER));
});

step('a URL without a file: InternalServerError', async () => {
  const url = `${ORIGIN}/typescript/missing.jpg`;
  const missing = await fails(InternalServerError, 5002, sendUrl(url, STRANGER));
  assert.ok(missing.body.error.message.includes(`${url}: the host answered 404`), missing.body.error.message);
  assert.deepEqual((await requestsFor(url)).map(({ status }) => status), [404]);
  const local = await fails(InternalServerError, 5002, sendUrl('https://10.0.0.1/a.jpg', STRANGER));
  assert.match(local.body.error.message, /its address is not public/);
});

step('a URL of an unsupported file: BadRequestError', async () => {
  const refused = async (code: number, url: string, reason: string) => {
    const { body } = await fails(BadRequestError, code, sendUrl(url, STRANGER));
    assert.ok(body.error.message.includes(reason), body.error.message);
  };
  const page = await sample('page-named.jpg');
  const program = await sample('elf-named.jpg');
  const large = Buffer.concat([PHOTO, Buffer.alloc(10 * 1024 * 1024)]);
  const junk = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte));

  await refused(5006, await host('picture.jpg', PICTURE), 'picture.jpg is a PNG image (image/png)');
  await refused(5006, await host('page.jpg', page), 'page.jpg is an HTML page (text/html)');
  await refused(5004, await host('program.jpg', program), 'program.jpg holds a Linux program');
  await refused(5004, await host('junk.jpg', junk), 'junk.jpg is no file of a supported type');
  await refused(5005, await host('large.jpg', large), 'the file is larger than 10 MiB');
  await refused(1005, `${ORIGIN_CONTROL}/typescript/picture.png`, 'it does not start with https://');
  // One invalid file fails the whole message.
  const good = { type: 'media', url: await host('photo.jpg', PHOTO) } as const;
  const bad = { type: 'media', url: await host('photo.png', PHOTO) } as const;
  await fails(BadRequestError, 5006, sendParts([good, bad], STRANGER));
  assert.deepEqual(await ids(client.chats.listChats({ to: STRANGER })), [], 'a refused send left a chat behind');
});

step('an upload of another type than declared: BadRequestError', async () => {
  // The PUT itself succeeds, as it would on a bucket.
  const { attachment_id } = await upload('page.jpg', await sample('page-named.jpg'));
  const attachment = await client.attachments.retrieve(attachment_id);
  assert.equal(attachment.status, 'failed');
  assert.equal(attachment.download_url, undefined);
  const { body } = await fails(BadRequestError, 5004, sendParts([{ type: 'media', attachment_id }], STRANGER));
  assert.match(body.error.message, /page\.jpg holds an HTML page, not a JPEG image/);
});

step('an invalid voice memo: BadRequestError', async () => {
  const refused = async (code: number, reason: string, source: LinqAPIV3.ChatSendVoicememoParams) => {
    const { body } = await fails(BadRequestError, code, sendMemo(source));
    assert.ok(body.error.message.includes(reason), body.error.message);
  };
  const before = await ids(client.chats.messages.list(memoChatId));
  const clip = await sample('clip.mp4');
  const video = await upload('clip.mp4', clip, 'video/mp4');
  const memoUrl = await host('memo.m4a', MEMO);

  await refused(1001, 'voice_memo_url or attachment_id', {});
  await refused(1005, 'not both', { attachment_id: sentMemo.voice_memo.id, voice_memo_url: memoUrl });
  await refused(1005, 'it does not start with https://', { voice_memo_url: `${ORIGIN_CONTROL}/typescript/memo.m4a` });
  await refused(1005, 'not a UUID', { attachment_id: 'not-a-uuid' });
  await refused(5004, 'clip.mp4 is an MP4 video', { attachment_id: video.attachment_id });
  await refused(5004, 'clip.mp4 is an MP4 video', { voice_memo_url: await host('clip.mp4', clip) });
  await refused(5004, 'photo.jpg is a JPEG image', { attachment_id: photo.attachment_id });
  await refused(5004, 'photo.jpg is a JPEG image', { voice_memo_url: await host('photo.jpg', PHOTO) });
  assert.deepEqual(await ids(client.chats.messages.list(memoChatId)), before);
});

step('a voice memo that is too large: APIError', async () => {
  const sound = await sample('sound.wav');
  const large = Buffer.concat([sound, Buffer.alloc(10 * 1024 * 1024 + 1 - sound.length)]);
  const { attachment_id } = await upload('large.wav', large, 'audio/x-wav');
  for (const source of [{ voice_memo_url: await host('large.wav', large) }, { attachment_id }]) {
    // The client has no specific exception for this status.
    const { body } = await fails(APIError, 5005, sendMemo(source));
    assert.equal(body.error.status, 413);
    assert.match(body.error.message, /too large for a voice memo/);
  }
});

step('a voice memo with an unknown attachment or chat: NotFoundError', async () => {
  await fails(NotFoundError, 2003, sendMemo({ attachment_id: randomUUID() }));
  const known = { attachment_id: sentMemo.voice_memo.id };
  await fails(NotFoundError, 2001, client.chats.sendVoicememo(randomUUID(), known));
  // Both exist, but belong to another partner.
  const { attachment_id, download_url } = await upload('memo.m4a', MEMO, 'audio/x-m4a', other);
  await fails(NotFoundError, 2003, sendMemo({ attachment_id }));
  await fails(NotFoundError, 2003, sendMemo({ voice_memo_url: download_url }));
  await fails(NotFoundError, 2001, other.chats.sendVoicememo(memoChatId, { attachment_id }));
});

step('a voice memo URL without a file: InternalServerError', async () => {
  const url = `${ORIGIN}/typescript/missing.m4a`;
  const { body } = await fails(InternalServerError, 5002, sendMemo({ voice_memo_url: url }));
  assert.ok(body.error.message.includes(`${url}: the host answered 404`), body.error.message);
});

step('an unsupported feature: PermissionDeniedError', async () => {
  await fails(PermissionDeniedError, 2011, client.contactCard.retrieve());
  await fails(PermissionDeniedError, 2011, client.chats.location.request(chatId));
  await fails(PermissionDeniedError, 2011, client.chats.shareContactCard(chatId));
});

step('the 31st message in a minute: RateLimitError', async () => {
  const first = {
    from: LINE,
    to: [BUSY_FRIEND],
    message: {
      parts: [{ type: 'text', value: 'Number 1' }],
      idempotency_key: `typescript-${randomUUID()}`,
    },
  } satisfies LinqAPIV3.ChatCreateParams;
  const { chat } = await client.chats.create(first);
  for (let number = 2; number <= 30; number++) await say(chat.id, `Number ${number}`);

  const { body, headers } = await fails(RateLimitError, 1007, say(chat.id, 'Number 31'));
  const seconds = body.error.retry_after;
  assert.ok(seconds && seconds >= 1 && seconds <= 60, `retry after ${seconds} s`);
  assert.equal(headers?.get('Retry-After'), String(seconds));

  // A repeated send gets its stored response in spite of the rate limit.
  const repeated = await client.chats.create(first);
  assert.equal(repeated.chat.message.id, chat.message.id);
});

let failed = 0;
for (const { title, run } of steps) {
  try {
    await run();
    console.log(`ok   typescript: ${title}`);
  } catch (error) {
    failed += 1;
    console.log(`FAIL typescript: ${title}:`, error);
  }
}
console.log(`${steps.length - failed} passed, ${failed} failed`);
process.exitCode = failed ? 1 : 0;
