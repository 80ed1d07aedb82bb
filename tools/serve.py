"""A small OpenAI-compatible server over `HFEngine`, for tests and for trying things out. Not for the open internet.

    python tools/serve.py MODEL [PORT]

Speaks the part of vLLM's dialect that `multiagent_ft.engines.server` uses: /v1/models, /v1/completions (text or token ids as prompt, seed,
stop_token_ids, return_token_ids), /v1/chat/completions, /v1/load_lora_adapter.
"""

import json, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def serve(engine, port: int = 0, key: str | None = None, trouble=lambda path: None):
    """Serve `engine` at 127.0.0.1 in a thread of its own; (server, url). `trouble(path)` may return an (HTTP status,
    message) to answer with instead."""
    from multiagent_ft.core import Message
    from multiagent_ft.method.prompts import Sampling
    from multiagent_ft.engines.huggingface import generate_batch

    lock, adapters = threading.Lock(), {}

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def say(self, status, body):
            data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header('Content-Type', 'application/json')
            self.send_header('Content-Length', str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def refused(self):
            if key and self.headers.get('Authorization') != f'Bearer {key}':
                self.say(401, dict(error=dict(message='Invalid API key')))
                return True
            if bad := trouble(self.path):
                self.say(bad[0], dict(error=dict(message=bad[1])))
                return True

        def do_GET(self):
            if self.refused():
                return
            if self.path == '/v1/models':
                self.say(200, dict(data=[dict(id=n, max_model_len=engine.context) for n in (engine.name, *adapters)]))
            else:
                self.say(404, dict(error=dict(message='no such page')))

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
            if self.refused():
                return
            if self.path == '/v1/load_lora_adapter':
                if body['lora_name'] in adapters:
                    return self.say(400, dict(error=dict(message=f'{body["lora_name"]} has already been loaded.')))
                adapters[body['lora_name']] = body['lora_path']
                return self.say(200, f'Success: LoRA adapter {body["lora_name"]} added.')
            if body['model'] != engine.name and body['model'] not in adapters:
                return self.say(404, dict(error=dict(message=f'The model {body["model"]} does not exist.')))
            chat = self.path == '/v1/chat/completions'
            ids = engine.render(tuple(Message(**m) for m in body['messages'])) if chat else tuple(body['prompt'])
            n = body['max_tokens']
            if len(ids) + n > engine.context:
                return self.say(
                    400, dict(error=dict(message=f"This model's maximum context length is {engine.context} tokens."))
                )
            with lock, engine.adapters.speaking(adapters.get(body['model'])) as model:
                (c,) = generate_batch(
                    engine, model, [(ids, body['seed'], Sampling(body['temperature'], body['top_p'], n))]
                )
            said = dict(message=dict(role='assistant', content=c.text)) if chat else dict(text=c.text)
            if body.get('return_token_ids'):
                said['token_ids'] = list(c.token_ids)
            self.say(200, dict(model=body['model'], choices=[dict(index=0, finish_reason=c.finish, **said)]))

    server = ThreadingHTTPServer(('127.0.0.1', port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f'http://127.0.0.1:{server.server_address[1]}/v1'


if __name__ == '__main__':
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    from multiagent_ft.engines.huggingface import HFEngine

    server, url = serve(HFEngine(sys.argv[1]), int((sys.argv[2:] or [8000])[0]))
    print(url, flush=True)
    threading.Event().wait()
