"Packaging from settings.ini alone: nbdev reads its own keys there, this file the rest (extras, data files, scripts)."
from configparser import ConfigParser
from pathlib import Path
import shlex
import setuptools

config = ConfigParser(delimiters=['='])
config.read('settings.ini', encoding='utf-8')
cfg = config['DEFAULT']
lib = cfg['lib_path']


def reqs(key): return shlex.split(cfg.get(key, ''))


extras = {k.removesuffix('_requirements'): reqs(k) for k in cfg if k.endswith('_requirements')}
setuptools.setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'], keywords=cfg['keywords'],
    author=cfg['author'], author_email=cfg['author_email'], url=cfg['git_url'], license='Apache-2.0', license_files=['LICENSE'],
    long_description=Path('README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown',
    python_requires='>=' + cfg['min_python'],
    packages=setuptools.find_packages(include=[lib, lib + '.*']),
    package_data={lib: cfg.get('package_data', '').split()}, include_package_data=False, zip_safe=False,
    install_requires=reqs('requirements'), extras_require=extras,
    entry_points={'console_scripts': shlex.split(cfg.get('console_scripts', '')), 'nbdev': [f'{lib}={lib}._modidx:d']})
