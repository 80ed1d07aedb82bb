"""A small OpenAI-compatible server over `HFEngine`, for tests and for trying things out. Not for the open internet.

    python tools/serve.py MODEL [PORT]

Understands the part of vLLM's interface that `multiagent_ft.engines.server` uses: /v1/models, /v1/completions (text or
token ids as prompt, seed, stop_token_ids, return_token_ids, logprobs), /v1/chat/completions, /v1/load_lora_adapter,
/detokenize.
"""

import json, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PAGES = ('/v1/completions', '/v1/chat/completions', '/detokenize')


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, engine, port, key, trouble):
        super().__init__(('127.0.0.1', port), Handler)
        self.engine, self.key, self.trouble = engine, key, trouble
        self.lock, self.adapters = threading.Lock(), {}
        self.ignores = (
            set()
        )  # of a request: adapters, logprobs, return_token_ids, usage, detokenize; nothing is said about it


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def send(self, status, body):
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def fail(self, status, message):
        self.send(status, dict(error=dict(message=message)))

    def refused(self):
        "Without the key, or when this path is in trouble: answered here."
        if self.server.key and self.headers.get('Authorization') != f'Bearer {self.server.key}':
            self.fail(401, 'Invalid API key')
            return True
        if bad := self.server.trouble(self.path):
            self.fail(*bad)
            return True
        return False

    def do_GET(self):
        if self.refused():
            return
        if self.path != '/v1/models':
            return self.fail(404, 'no such page')
        engine = self.server.engine
        parents = {engine.name: None} | dict.fromkeys(self.server.adapters, engine.name)
        self.send(200, dict(data=[dict(id=n, max_model_len=engine.context, parent=p) for n, p in parents.items()]))

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
        if self.refused():
            return
        if self.path == '/v1/load_lora_adapter':
            self.load_adapter(body.get('lora_name'), body.get('lora_path'))
        elif self.path not in PAGES or 'detokenize' in self.server.ignores and self.path == '/detokenize':
            self.fail(404, 'Not Found')
        elif body['model'] != self.server.engine.name and body['model'] not in self.server.adapters:
            self.fail(404, f'The model {body["model"]} does not exist.')
        elif self.path == '/detokenize':
            self.send(200, dict(prompt=self.server.engine.base.renderer.tok.decode(body['tokens'])))
        else:
            self.complete(body)

    def load_adapter(self, name, path):
        if not name or not path:
            return self.fail(400, 'Both lora_name and lora_path are needed.')
        if name in self.server.adapters:
            return self.fail(400, f'{name} has already been loaded.')
        self.server.adapters[name] = path
        self.send(200, f'Success: LoRA adapter {name} added.')

    def complete(self, body):
        "A completion, of a chat or of a prompt in token ids."
        from multiagent_ft.core import Message

        engine = self.server.engine
        chat = self.path == '/v1/chat/completions'
        ids = engine.render(tuple(Message(**m) for m in body['messages'])) if chat else self.prompt_ids(body['prompt'])
        if len(ids) + body['max_tokens'] > engine.context:
            return self.fail(400, f"This model's maximum context length is {engine.context} tokens.")
        completion = self.generate(ids, body)
        text = completion.text
        choice = dict(message=dict(role='assistant', content=text)) if chat else dict(text=text)
        if self.wants(body, 'return_token_ids'):
            choice['token_ids'] = list(completion.token_ids)
        if self.wants(body, 'return_token_ids') and 'prompt_token_ids' not in self.server.ignores:
            choice['prompt_token_ids'] = list(ids)
        if self.wants(body, 'logprobs'):
            choice['logprobs'] = dict(token_logprobs=self.logprobs(ids, completion.token_ids, body['model']))
        choice |= dict(index=0, finish_reason=completion.finish)
        usage = {} if 'usage' in self.server.ignores else dict(usage=dict(prompt_tokens=len(ids)))
        self.send(200, dict(model=body['model'], choices=[choice]) | usage)

    def prompt_ids(self, prompt):
        "A text gets the special tokens of its tokenizer."
        return tuple(self.server.engine.base.renderer.tok(prompt).input_ids if isinstance(prompt, str) else prompt)

    def generate(self, ids, body):
        from multiagent_ft.engines.huggingface import Row, generate_batch
        from multiagent_ft.method.prompts import Sampling

        engine = self.server.engine
        sampling = Sampling(body.get('temperature', 1), body.get('top_p', 1), body['max_tokens'])
        with self.server.lock, engine.base.adapters.with_adapter(self.adapter_of(body['model'])) as model:
            return generate_batch(engine, model, [Row(ids, body.get('seed', 0), sampling)])[0]

    def logprobs(self, prompt, tokens, name):
        with self.server.lock:
            (scores,) = self.server.engine.logprobs([prompt], [tokens], self.adapter_of(name))
        return [float(x) for x in scores]

    def wants(self, body, field):
        return body.get(field) and field not in self.server.ignores

    def adapter_of(self, name):
        "The folder of an adapter; None for the base, and for all if this server ignores them."
        return None if 'adapters' in self.server.ignores else self.server.adapters.get(name)


def no_trouble(path):
    "Nothing is refused."


def serve(engine, port: int = 0, key: str | None = None, trouble=no_trouble):
    """Serve `engine` at 127.0.0.1 in a thread of its own; (server, url). `trouble(path)` may return an (HTTP status,
    message) to answer with instead."""
    server = Server(engine, port, key, trouble)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f'http://127.0.0.1:{server.server_address[1]}/v1'


if __name__ == '__main__':
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    from multiagent_ft.engines.huggingface import HFEngine

    server, url = serve(HFEngine(sys.argv[1]), int((sys.argv[2:] or [8000])[0]))
    print(url, flush=True)
    threading.Event().wait()
