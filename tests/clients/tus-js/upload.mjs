// node upload.mjs ENDPOINT FILE CHUNK_BYTES: prints the upload's address, and how often it resumed.
import fs from 'node:fs'
import { Upload } from 'tus-js-client'

const [endpoint, path, chunkSize] = process.argv.slice(2)
let retries = 0

const upload = new Upload(fs.createReadStream(path), {
  endpoint,
  chunkSize: Number(chunkSize),
  uploadSize: fs.statSync(path).size,
  retryDelays: [200, 500, 1000, 2000, 4000, 8000, 8000],
  metadata: { filename: 'from-js.bin' },
  onShouldRetry: () => {
    retries += 1
    return true
  },
  onError: (error) => {
    console.error(String(error))
    process.exit(1)
  },
  onSuccess: () => {
    console.log(JSON.stringify({ url: upload.url, retries }))
  },
})
upload.start()
