# SPDX-License-Identifier: Apache-2.0
"""A ttrpc client of our own making, written from the protocol's documents alone.

It shares no line with hld, so that both sides cannot be wrong in the same way. The messages are not
generated code either: proto/hl.proto and proto/envelope.proto are read when the tests start, and a
message is a dict by field names. What stands here is what a hostile client needs as well: frames
can be sent in pieces, cut short, or made of anything, with any descriptors beside them.
"""

import array
import fcntl
import os
import re
import socket
import struct

REQUEST, RESPONSE, DATA = 1, 2, 3
REMOTE_CLOSED, REMOTE_OPEN, NO_DATA = 1, 2, 4
PAYLOAD_MAX = 4 << 20
HEADER = struct.Struct(">IIBB")

STATUS = {
    "OK": 0, "CANCELLED": 1, "UNKNOWN": 2, "INVALID_ARGUMENT": 3, "DEADLINE_EXCEEDED": 4,
    "NOT_FOUND": 5, "ALREADY_EXISTS": 6, "PERMISSION_DENIED": 7, "RESOURCE_EXHAUSTED": 8,
    "FAILED_PRECONDITION": 9, "ABORTED": 10, "OUT_OF_RANGE": 11, "UNIMPLEMENTED": 12,
    "INTERNAL": 13, "UNAVAILABLE": 14, "DATA_LOSS": 15, "UNAUTHENTICATED": 16,
}
STATUS_NAMES = {number: name for name, number in STATUS.items()}

VARINT_TYPES = {"int32", "int64", "uint32", "uint64", "bool"}
SCALARS = VARINT_TYPES | {"float", "double", "string", "bytes"}


class Field:
    def __init__(self, name, number, kind, repeated=False, oneof=None, key=None):
        self.name, self.number, self.kind = name, number, kind
        self.repeated, self.oneof, self.key = repeated, oneof, key


class Schema:
    """The messages of .proto files (the subset of the language that ours use)."""

    def __init__(self, *paths):
        self.messages, self.enums, self.methods = {}, {}, {}
        for path in paths:
            with open(path, encoding="utf-8") as file:
                text = re.sub(r"//[^\n]*", "", file.read())
            self.package = re.search(r"package\s+([\w.]+)\s*;", text).group(1)
            tokens = re.findall(r'"[^"]*"|[\w.]+|[^\s\w]', text)
            self._file(iter(tokens))

    def _file(self, tokens):
        for token in tokens:
            if token == "message":
                name = next(tokens)
                next(tokens)
                self.messages[name] = self._fields(tokens)
            elif token == "enum":
                name = next(tokens)
                next(tokens)
                self.enums[name] = self._enum(tokens)
            elif token == "service":
                name = next(tokens)
                next(tokens)
                self._service(name, tokens)

    def _fields(self, tokens, oneof=None):
        fields = []
        for token in tokens:
            if token == "}":
                break
            if token == "oneof":
                name = next(tokens)
                next(tokens)
                fields += self._fields(tokens, name)
                continue
            repeated, key = token == "repeated", None
            kind = next(tokens) if repeated else token
            if kind == "map":
                next(tokens)
                key = next(tokens)
                next(tokens)
                kind = next(tokens)
                next(tokens)
            name = next(tokens)
            next(tokens)
            number = int(next(tokens))
            next(tokens)
            fields.append(Field(name, number, kind, repeated, oneof, key))
        return fields

    def _enum(self, tokens):
        values = {}
        for token in tokens:
            if token == "}":
                break
            next(tokens)
            values[token] = int(next(tokens))
            next(tokens)
        return values

    def _service(self, service, tokens):
        for token in tokens:
            if token == "}":
                break
            if token != "rpc":
                continue
            method = next(tokens)
            request, response = self._message(tokens), None
            for word in tokens:
                if word == "returns":
                    response = self._message(tokens)
                    break
            entry = (f"{self.package}.{service}", request, response)
            self.methods.setdefault(method, entry)  # of the first service that has it
            self.methods[f"{service}.{method}"] = entry

    @staticmethod
    def _message(tokens):
        """The name in "(Name)" or "(stream Name)"."""
        next(tokens)
        name = next(tokens)
        return next(tokens) if name == "stream" else name

    def encode(self, name, message):
        known = {field.name: field for field in self.messages[name]}
        out = bytearray()
        for key, value in message.items():
            field = known[key]
            if field.key:
                raise NotImplementedError("maps are only read")
            for item in value if field.repeated else [value]:
                out += self._encode_field(field, item)
        return bytes(out)

    def _encode_field(self, field, value):
        if field.kind in VARINT_TYPES or field.kind in self.enums:
            return varint(field.number << 3) + varint(int(value) & (1 << 64) - 1)
        if field.kind == "float":
            return varint(field.number << 3 | 5) + struct.pack("<f", value)
        if field.kind == "double":
            return varint(field.number << 3 | 1) + struct.pack("<d", value)
        if field.kind == "string":
            data = value.encode()
        elif field.kind == "bytes":
            data = bytes(value)
        else:
            data = self.encode(field.kind, value)
        return varint(field.number << 3 | 2) + varint(len(data)) + data

    def decode(self, name, data):
        """A dict with every field in it, but of a oneof only the one that was there."""
        fields = self.messages[name]
        known = {field.number: field for field in fields}
        message = {}
        for field in fields:
            if field.oneof is None:
                message[field.name] = {} if field.key else [] if field.repeated else \
                    self._default(field)
        for number, wire_type, value in raw_fields(data):
            field = known.get(number)
            if field is None:
                continue
            if field.key:
                entry = {1: "" if field.key == "string" else 0, 2: 0}
                for part, part_type, part_value in raw_fields(value):
                    kind = field.key if part == 1 else field.kind
                    entry[part] = self._value(kind, part_type, part_value)
                message[field.name][entry[1]] = entry[2]
            elif field.repeated and wire_type == 2 and \
                    (field.kind in VARINT_TYPES or field.kind in self.enums):
                message[field.name] += [self._value(field.kind, 0, item)
                                        for item in packed_varints(value)]
            elif field.repeated:
                message[field.name].append(self._value(field.kind, wire_type, value))
            else:
                message[field.name] = self._value(field.kind, wire_type, value)
        return message

    def _default(self, field):
        if field.kind in SCALARS:
            return {"string": "", "bytes": b"", "bool": False, "float": 0.0,
                    "double": 0.0}.get(field.kind, 0)
        return 0 if field.kind in self.enums else None

    def _value(self, kind, wire_type, value):
        if kind in ("int32", "int64"):
            return value - (1 << 64) if value >= 1 << 63 else value
        if kind == "bool":
            return bool(value)
        if kind == "float":
            return struct.unpack("<f", value)[0]
        if kind == "double":
            return struct.unpack("<d", value)[0]
        if kind == "string":
            return value.decode()
        if kind in SCALARS or kind in self.enums:
            return value
        assert wire_type == 2, "a message that is not length-delimited"
        return self.decode(kind, value)


def varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def read_varint(data, at):
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number & (1 << 64) - 1, at
        shift += 7
        if shift > 63:
            raise ValueError("a varint of more than ten bytes")


def packed_varints(data):
    at = 0
    while at < len(data):
        number, at = read_varint(data, at)
        yield number


def raw_fields(data):
    at = 0
    while at < len(data):
        tag, at = read_varint(data, at)
        wire_type = tag & 7
        if wire_type == 0:
            value, at = read_varint(data, at)
        else:
            if wire_type == 2:
                size, at = read_varint(data, at)
            else:
                size = {1: 8, 5: 4}[wire_type]
            value = data[at:at + size]
            if len(value) != size:
                raise ValueError("a field past the end of its message")
            at += size
        yield tag >> 3, wire_type, value


def proto_directory():
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "proto")


HL = Schema(os.path.join(proto_directory(), "hl.proto"))
ENVELOPE = Schema(os.path.join(proto_directory(), "envelope.proto"))


class StatusError(Exception):
    """A call that was answered with a status other than OK."""

    def __init__(self, status):
        self.code = status["code"]
        self.name = STATUS_NAMES.get(self.code, str(self.code))
        self.message = status["message"]
        self.details = {}
        for detail in status["details"]:
            kind = detail["type_url"].rpartition(".")[2]
            self.details[kind] = HL.decode(kind, detail["value"])
        super().__init__(f"{self.name}: {self.message}")


class Closed(Exception):
    """The other side ended the connection."""


def frame(payload, stream=1, kind=REQUEST, flags=0, length=None):
    return HEADER.pack(len(payload) if length is None else length, stream, kind, flags) + payload


def request(service, method, payload, timeout_ns=0):
    envelope = {"service": service, "method": method, "payload": payload}
    if timeout_ns:
        envelope["timeout_nano"] = timeout_ns
    return ENVELOPE.encode("Request", envelope)


def value(argument):
    """A Python value as hl.v1.Value; (type, value) where Python's type does not say which."""
    if isinstance(argument, tuple):
        names = {"bool": "boolean", "string": "text", "bytes": "data"}
        return {names.get(argument[0], argument[0]): argument[1]}
    if isinstance(argument, bool):
        return {"boolean": argument}
    if isinstance(argument, str):
        return {"text": argument}
    if isinstance(argument, (bytes, bytearray)):
        return {"data": argument}
    raise TypeError(f"say which type {argument!r} has")


ARGUMENT_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK
ROOM_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


def memfd(data, seals=ARGUMENT_SEALS):
    """A descriptor of what can go as an argument, the caller's to close."""
    fd = os.memfd_create("argument", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view):]
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def room(size, seals=ROOM_SEALS, holes=False):
    """A descriptor for a result, the caller's to close."""
    fd = os.memfd_create("result", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    if holes:
        os.ftruncate(fd, size)
    else:
        os.write(fd, bytes(size))
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def seals(fd):
    return fcntl.fcntl(fd, fcntl.F_GET_SEALS)


def descriptor(index):
    """An argument that is the descriptor of that index beside its frame."""
    return "descriptor", {"index": index}


def contents(fd, result):
    """What a result of the form {"index": …, "length": …} says there is in fd."""
    data, at = bytearray(), 0
    while at < result["length"]:
        piece = os.pread(fd, result["length"] - at, at)
        if not piece:
            raise ValueError("a result longer than its file")
        data += piece
        at += len(piece)
    return bytes(data)


class Connection:
    def __init__(self, path, timeout=60):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(timeout)
        try:
            self.socket.connect(path)
        except OSError:
            self.socket.close()
            raise
        self.next_stream = 1
        self.answers = {}
        self.streams = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    def send(self, data, descriptors=()):
        """descriptors go with the first byte of data."""
        try:
            if descriptors:
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
                data = memoryview(data)[self.socket.sendmsg([data], rights):]
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Closed() from error

    def _receive(self, size):
        data = bytearray()
        while len(data) < size:
            try:
                piece = self.socket.recv(size - len(data))
            except ConnectionResetError as error:
                raise Closed() from error
            if not piece:
                raise Closed()
            data += piece
        return bytes(data)

    def receive_frame(self):
        length, stream, kind, flags = HEADER.unpack(self._receive(HEADER.size))
        if length > PAYLOAD_MAX:
            raise ValueError(f"a frame of {length} bytes from hld")
        return stream, kind, flags, self._receive(length)

    def start(self, method, message, timeout_ns=0, descriptors=()):
        """Sends a request. Returns its stream, for finish()."""
        service, kind, _ = HL.methods[method]
        stream = self.next_stream
        self.next_stream += 2
        method = method.rpartition(".")[2]
        self.send(frame(request(service, method, HL.encode(kind, message), timeout_ns), stream),
                  descriptors)
        return stream

    def receive_one(self):
        """One frame, to where it belongs: an answer, or something for an open stream."""
        got, kind, flags, payload = self.receive_frame()
        if kind == RESPONSE:
            self.answers[got] = payload
        elif kind == DATA and got in self.streams:
            self.streams[got].frames.append((flags, payload))
        else:
            raise ValueError(f"a frame of type {kind} from hld")

    def open(self, method, message=None, timeout_ns=0, descriptors=()):
        return Stream(self, method, message, timeout_ns, descriptors)

    def finish(self, stream, method):
        while stream not in self.answers:
            self.receive_one()
        response = ENVELOPE.decode("Response", self.answers.pop(stream))
        if response["status"] and response["status"]["code"]:
            raise StatusError(response["status"])
        return HL.decode(HL.methods[method][2], response["payload"])

    def call(self, method, message=None, timeout_ns=0, descriptors=()):
        return self.finish(self.start(method, message or {}, timeout_ns, descriptors), method)

    def ping(self, payload=b"?"):
        return self.call("Ping", {"payload": payload})["payload"]

    def start_invoke(self, image, function, *args, deadline=None, call_id=0, descriptors=(),
                     into=None):
        """descriptors: beside the frame, in this order; descriptor(i) is the argument that is the
        i-th. into: the index of the one for the result."""
        message = {"image": image, "function": function, "args": [value(arg) for arg in args]}
        if call_id:
            message["call_id"] = call_id
        if into is not None:
            message["result_into"] = {"index": into}
        return self.start("Invoke", message, int(deadline * 1e9) if deadline else 0, descriptors)

    def finish_invoke(self, stream):
        return self.finish(stream, "Invoke")

    def invoke(self, image, function, *args, deadline=None, descriptors=(), into=None):
        """Returns: the result (None for void), or the guest's own error as a dict. One that is in
        a descriptor is a dict too, for contents()."""
        response = self.finish_invoke(self.start_invoke(image, function, *args, deadline=deadline,
                                                        descriptors=descriptors, into=into))
        return outcome(response)

    def invoke_with_host(self, image, function, *args, deadline=None, call_id=0, depth=0,
                         descriptors=(), into=None):
        """Returns: the stream; serve_host answers what comes on it."""
        start = {"image": image, "function": function, "args": [value(arg) for arg in args]}
        if into is not None:
            start["result_into"] = {"index": into}
        start.update({key: number for key, number in (("call_id", call_id), ("depth", depth))
                      if number})
        return self.open("InvokeWithHost", {"start": start},
                         int(deadline * 1e9) if deadline else 0, descriptors)

    def images(self):
        """All of them, however many pages that takes."""
        found, page = [], {"more": True}
        while page.get("more"):
            page = self.call("List", {"after": found[-1]["name"] if found else ""})
            found += page["images"]
        return found

    def register(self, name, program, private=False, host=None, **limits):
        upload, at, piece = 0, 0, 1 << 20
        while at < len(program) or not upload:
            answer = self.call("Upload", {"upload_id": upload, "offset": at,
                                          "data": program[at:at + piece]})
            upload, at = answer["upload_id"], answer["received"]
        message = {"name": name, "upload_id": upload, "private": private}
        if limits:
            message["limits"] = limits
        if host:
            message["host"] = host
        return self.call("Register", message)["image"]


class Stream:
    """A stream as of ttrpc 1.2: the request opens it, data goes both ways, a response ends it."""

    def __init__(self, connection, method, message, timeout_ns, descriptors=()):
        self.connection, self.method = connection, method
        service, self.sends, self.receives = HL.methods[method]
        self.id = connection.next_stream
        connection.next_stream += 2
        connection.streams[self.id] = self
        self.frames = []
        payload = HL.encode(self.sends, message) if message else b""
        connection.send(frame(request(service, method, payload, timeout_ns), self.id,
                              flags=REMOTE_OPEN), descriptors)

    def send(self, message, flags=0):
        self.connection.send(frame(HL.encode(self.sends, message), self.id, DATA, flags))

    def close(self):
        self.connection.send(frame(b"", self.id, DATA, REMOTE_CLOSED | NO_DATA))

    def receive(self):
        """The next message, or what finish() gives at the stream's end."""
        while not self.frames and self.id not in self.connection.answers:
            self.connection.receive_one()
        if self.frames:
            return HL.decode(self.receives, self.frames.pop(0)[1])
        del self.connection.streams[self.id]
        return self.connection.finish(self.id, self.method)

    def answer(self, call, result):
        """result: a value as for value(), None, or a dict that is the HostError."""
        reply = {"id": call["id"]}
        if isinstance(result, dict):
            reply["error"] = result
        elif result is not None:
            reply["result"] = value(result)
        self.send({"answer": reply})

    def serve(self, functions):
        """Answers host calls by functions, a dict, until the call's end. Returns: its outcome."""
        while True:
            message = self.receive()
            if "done" in message:
                return outcome(message["done"])
            call = message["call"]
            arguments = [next(iter(arg.values())) for arg in call["args"]]
            self.answer(call, functions[call["function"]](*arguments))


PROVIDERS = {"client": 0, "service": 1, "builtin": 2}


def host_function(name, params, ret="VOID", provider="client"):
    types = HL.enums["Type"]
    return {"name": name, "ret": types[ret], "params": [types[param] for param in params],
            "provider": PROVIDERS[provider]}


BUILTINS = [host_function("hl.time", [], "I64", "builtin"),
            host_function("hl.time.monotonic", [], "I64", "builtin"),
            host_function("hl.random", ["U32"], "BYTES", "builtin"),
            host_function("hl.log", ["STRING"], "VOID", "builtin"),
            host_function("hl.kv.get", ["STRING"], "BYTES", "builtin"),
            host_function("hl.kv.put", ["STRING", "BYTES"], "VOID", "builtin"),
            host_function("hl.kv.delete", ["STRING"], "BOOL", "builtin")]


def outcome(response):
    if "error" in response:
        return response["error"]
    if "result" not in response:
        return None
    (result,) = response["result"].values()
    return result
